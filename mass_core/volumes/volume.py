"""Volumes: an array and its geometry in the patient.

Arrays are ordered z, y, x. World coordinates are LPS millimetres, as in DICOM and SimpleITK; SimpleITK's x, y, z order stays inside this
file, image_io.py and resample.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..config import Modality, Shape, Triple
from ..errors import GeometryError, InputError
from .boxes import Box
from .image_io import read_image, write_image

_DICOM_MODALITIES: dict[str, Modality] = {"CT": "ct", "MR": "mr", "PT": "pet"}
_ITK_TYPES = {"bool": np.uint8, "float16": np.float32}
"""Types of voxels in place of those that ITK lacks."""
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Geometry of a voxel grid in LPS millimetres."""

    shape_zyx: Shape
    spacing_xyz: Triple = (1.0, 1.0, 1.0)
    """Voxel edges in mm."""
    origin_xyz: Triple = (0.0, 0.0, 0.0)
    """Centre of the first voxel."""
    direction: tuple[float, ...] = _IDENTITY
    """Nine numbers, row by row: the columns are the world directions of index x, y, z."""

    @property
    def spacing_zyx(self) -> Triple:
        """Voxel edges in mm in array order."""
        x, y, z = self.spacing_xyz
        return z, y, x

    @property
    def affine(self) -> np.ndarray:
        """The 4x4 matrix from voxel index (x, y, z, 1) to LPS millimetres."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing_xyz
        matrix[:3, 3] = self.origin_xyz
        return matrix

    @property
    def box_mm(self) -> tuple[Triple, Triple]:
        """Lowest and highest LPS coordinate the voxels reach, their outer faces included."""
        corners = self.corners_mm()
        low, high = corners.min(axis=0), corners.max(axis=0)
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def point(self, index_xyz: Triple) -> Triple:
        """Physical position in mm of a point given in voxels, equal to the last bit to SimpleITK's, which decides on voxels at a border."""
        voxel = sitk.Image(1, 1, 1, sitk.sitkUInt8)
        voxel.SetSpacing(self.spacing_xyz)
        voxel.SetOrigin(self.origin_xyz)
        voxel.SetDirection(self.direction)
        if all(float(i).is_integer() for i in index_xyz):
            return voxel.TransformIndexToPhysicalPoint([int(i) for i in index_xyz])
        return voxel.TransformContinuousIndexToPhysicalPoint(index_xyz)

    def matches(self, other: "Geometry", tolerance_mm: float = 1e-2) -> bool:
        """True if both have the same voxels: equal shape, every corner within the tolerance."""
        return self.shape_zyx == other.shape_zyx and bool(np.abs(self.corners_mm() - other.corners_mm()).max() <= tolerance_mm)

    def overlaps(self, other: "Geometry") -> bool:
        """True if the two grids share space, each seen along the axes of the other."""
        return self._reaches(other) and other._reaches(self)

    def shares_lattice(self, other: "Geometry", tolerance_mm: float = 1e-2) -> bool:
        """True if the voxels of `other` coincide with voxels of this grid where both exist (one may be a cut-out of the other)."""
        to_index = np.linalg.inv(self.affine) @ other.affine
        offset = to_index[:3, 3]
        drift = np.abs(to_index[:3, :3] - np.eye(3)) @ np.asarray(other.shape_zyx[::-1])
        reach = (np.abs(offset - np.round(offset)) + drift) * self.spacing_xyz
        return bool(reach.max() <= tolerance_mm)

    def contains(self, other: "Geometry") -> bool:
        """True if `other` is a cut-out of this grid: all of its voxels are voxels of this one."""
        start = np.round((np.linalg.inv(self.affine) @ other.affine)[:3, 3])
        return self.shares_lattice(other) and bool(np.all(start >= 0) and np.all(start + other.shape_zyx[::-1] <= self.shape_zyx[::-1]))

    def aligned(self, other: "Geometry") -> bool:
        """True if the voxel axes of both point the same ways."""
        return bool(np.allclose(self.direction, other.direction, atol=1e-4))

    def cropped(self, box: tuple[Shape, Shape]) -> "Geometry":
        """The grid of a box of voxels; the box may reach beyond this grid."""
        z, y, x = box[0]
        return replace(self, shape_zyx=Box(*box).size, origin_xyz=self.point((x, y, z)))

    def describe(self) -> str:
        """One line for messages: size, voxel size and the box in mm."""
        size = " x ".join(map(str, self.shape_zyx[::-1]))
        edge = " x ".join(f"{s:.3g}" for s in self.spacing_xyz)
        low, high = self.box_mm
        box = ", ".join(f"{name} {a:.1f} to {b:.1f}" for name, a, b in zip("xyz", low, high, strict=True))
        return f"{size} voxels of {edge} mm ({box} mm, LPS)"

    def corners_mm(self) -> np.ndarray:
        """The eight outer corners in mm [8, 3]."""
        ends = np.array([[-0.5, n - 0.5] for n in self.shape_zyx[::-1]])
        index = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def _reaches(self, other: "Geometry") -> bool:
        matrix = np.linalg.inv(self.affine)
        index = other.corners_mm() @ matrix[:3, :3].T + matrix[:3, 3]
        low, high = index.min(axis=0), index.max(axis=0)
        return bool(np.all(high > -0.5) and np.all(low < np.asarray(self.shape_zyx[::-1]) - 0.5))


@dataclass(frozen=True, eq=False)
class Volume:
    """An array of voxels with its geometry."""

    array: np.ndarray
    """Values [z, y, x]."""
    geometry: Geometry
    modality: Modality | None = None
    """Modality recorded by the scanner (DICOM); None: not known."""
    notes: tuple[str, ...] = ()
    """Notes about its file for the user, one sentence each."""

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise InputError(f"An array of {self.array.ndim} dimensions is not a volume.", "Give an array with the axes z, y, x.")
        if self.array.shape != self.geometry.shape_zyx:
            raise GeometryError(f"The array has shape {self.array.shape}, its geometry {self.geometry.shape_zyx} (z, y, x).")

    @classmethod
    def read(cls, path: str | Path, frame: int | None = None) -> "Volume":
        """Read NIfTI, NRRD, MetaImage or any other format of SimpleITK, or the one DICOM series of a folder.

        Args:
            path: File, or folder of DICOM slices.
            frame: Which volume of a 4D file, or component of a vector image, counted from 0.

        Raises:
            InputError: when there is no such file, or it does not hold one volume.
            GeometryError: when its voxels do not lie on a regular straight grid.
        """
        image, notes = read_image(Path(path), frame)
        return replace(cls.from_sitk(image), notes=notes)

    def write(self, path: str | Path, fields: Mapping[str, str] | None = None) -> None:
        """Write .nii, .nii.gz, .nrrd, .mha or .mhd; a file of that name is replaced at once when the new one is complete.

        Args:
            path: Of the file.
            fields: Further header fields, for formats that have room for them (NRRD).

        Raises:
            OutputError: when that is not possible; nothing is left behind then.
        """
        image = self.to_sitk()
        for name, text in (fields or {}).items():
            image.SetMetaData(name, text)
        write_image(image, Path(path))

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> "Volume":
        """Copy a SimpleITK image of three dimensions; double precision becomes float32."""
        array = sitk.GetArrayFromImage(image)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        tag = image.GetMetaData("0008|0060").strip() if image.HasMetaDataKey("0008|0060") else ""
        return cls(array, geometry_of(image), _DICOM_MODALITIES.get(tag))

    def to_sitk(self) -> sitk.Image:
        """Copy into a SimpleITK image; truth values become uint8, half precision becomes float32."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(self.array, _ITK_TYPES.get(self.array.dtype.name)))
        image.SetSpacing(self.geometry.spacing_xyz)
        image.SetOrigin(self.geometry.origin_xyz)
        image.SetDirection(self.geometry.direction)
        return image

    def on_grid_of(self, other: "Volume") -> "Volume":
        """The same voxels with the geometry of another volume of the same shape.

        Raises:
            GeometryError: if the shapes differ.
        """
        if self.array.shape != other.array.shape:
            sizes = " and ".join(" x ".join(map(str, volume.array.shape[::-1])) for volume in (self, other))
            raise GeometryError(f"The two grids have {sizes} voxels, so they cannot match voxel for voxel.", "Leave --same-grid out.")
        return replace(self, geometry=other.geometry)

    def cropped(self, box: tuple[Shape, Shape]) -> "Volume":
        """The part inside a box that lies within the grid; shares memory."""
        return Volume(self.array[Box(*box).slices()], self.geometry.cropped(box), self.modality)


def geometry_of(image: sitk.Image) -> Geometry:
    """Geometry of a SimpleITK image of three dimensions."""
    x, y, z = image.GetSize()
    return Geometry(
        shape_zyx=(z, y, x), spacing_xyz=image.GetSpacing(), origin_xyz=image.GetOrigin(), direction=tuple(image.GetDirection())
    )
