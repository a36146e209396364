"""Features of scans in colours they share."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..config import Triple
from ..errors import InputError, MassError
from ..inference.features import Basis, Painting, look, paint, sample, view, view_spacing
from ..inference.segmenter import Segmenter
from ..progress import Steps
from ..volumes.read_cache import state_of
from ..volumes.volume import Volume
from ..worker.requests import Features
from .session import Session


@dataclass(frozen=True, kw_only=True, eq=False)
class Colours:
    """Colours of several scans, kept for the next of them."""

    key: str
    """Changes with the network, how it computes, and the files."""
    spacing_zyx: Triple
    """Working voxel size, for the first one."""
    basis: Basis

    @classmethod
    def of(cls, request: Features, session: Session, segmenter: Segmenter, steps: Steps, kept: "Colours | None") -> "Colours":
        """The colours of a request's common scans; one that cannot be used has no say in them.

        Args:
            request: names them.
            session: reads them.
            segmenter: computes.
            steps: told of its stages.
            kept: those of the request before.

        Raises:
            InputError: if none of the scans can be used.
        """
        files = [state_of(Path(path)) for path in request.common]
        key = f"{segmenter.model.fingerprint} {segmenter.recipe} {segmenter.precision} {request.frame} {request.seed} {files}"
        if kept is not None and kept.key == key:
            return kept
        samples, spacing = [], None
        for path in request.common:
            with suppress(MassError):
                scan = session.scans.read(Path(path), request.frame)
                spacing = spacing or view_spacing(scan.geometry, segmenter.recipe)
                samples.append(sample(segmenter, view(segmenter, scan, spacing, steps), steps, request.seed))
        if not samples or spacing is None:
            raise InputError("None of the scans that share their colours can be used.", "Look at each of them alone.")
        return cls(key=key, spacing_zyx=spacing, basis=Basis.of(samples))


def painted(segmenter: Segmenter, scan: Volume, colours: Colours | None, steps: Steps, seed: int) -> Painting:
    """A scan in these colours, or in colours of its own."""
    if colours is None:
        return look(segmenter, scan, steps, seed)
    return paint(segmenter, view(segmenter, scan, colours.spacing_zyx, steps), colours.basis, steps)
