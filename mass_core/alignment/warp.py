"""Map between the points of a target and those of a reference, on a box of the reference."""

from dataclasses import dataclass

from torch import Tensor

from .fields import sample
from .scan import AlignedScan


@dataclass(frozen=True, eq=False)
class Warp:
    """Map from a target's points to a reference's: a shift, then a displacement of every voxel."""

    scan: AlignedScan
    """The box of the reference."""
    shift: Tensor
    """[3] z, y, x in mm: a point of the target plus this is about the matching point of the reference."""
    field: Tensor
    """[3,D,H,W] on the box after the shift, in its voxels."""
    difference: Tensor
    """[D,H,W] mean squared feature difference that is left, smoothed."""

    def in_box(self, points_mm: Tensor) -> Tensor:
        """Voxels of the box after the shift at points [3,...] of the target, z, y, x in LPS mm."""
        return self.scan.index(points_mm + self.shift.view(3, *[1] * (points_mm.ndim - 1)))

    def reference_mm(self, points_mm: Tensor) -> Tensor:
        """The matching points of the reference, as `points_mm` [3,d,h,w]."""
        index = self.in_box(points_mm)
        return self.scan.points_mm(index + sample(self.field, index))
