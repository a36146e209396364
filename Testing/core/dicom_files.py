"""DICOM files for tests of reading: slices, Enhanced images and segmentations, written with pydicom."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "enhanced": "1.2.840.10008.5.1.4.1.1.4.1",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "SR": "1.2.840.10008.5.1.4.1.1.88.11",
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def of(**values: Any) -> Dataset:
    """A data set of some attributes."""
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def begun(kind: str, series: str = "1.2.3") -> Dataset:
    data = of(SOPClassUID=CLASSES[kind], SOPInstanceUID=generate_uid(), StudyInstanceUID="1.2", SeriesInstanceUID=series)
    data.Modality = kind if kind != "enhanced" else "MR"
    data.SeriesDescription, data.FrameOfReferenceUID, data.PatientID = kind, "1.2.9", "P"
    return data


def saved(data: Dataset, path: Path) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def with_pixels(data: Dataset, array: np.ndarray) -> None:
    data.Rows, data.Columns = array.shape[-2:]
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel, data.PhotometricInterpretation = 15, 1, 1, "MONOCHROME2"
    data.PixelData = np.ascontiguousarray(array, np.int16).tobytes()


def write_slices(
    folder: Path, array: np.ndarray, *, kind: str = "MR", change: Callable[[Dataset, int], None] | None = None, first: int = 0
) -> Path:
    """A series of slices of 1 x 2 mm pixels, 3 mm apart from (-5, 7, 10) on."""
    for number, plane in enumerate(array):
        data = begun(kind)
        data.InstanceNumber = number + 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [-5, 7, 10 + 3 * number], list(AXIAL)
        data.PixelSpacing, data.SliceThickness = [2, 1], 3
        with_pixels(data, plane)
        if change is not None:
            change(data, number)
        saved(data, folder / f"s{number + first:02}.dcm")
    return folder


def write_enhanced(
    path: Path,
    array: np.ndarray,
    heights: Sequence[float],
    frame: Callable[[int], dict[str, list[Dataset]]] | None = None,
) -> Path:
    """An Enhanced MR of 1 x 2 mm pixels whose frames lie at some heights; `frame` adds functional groups to one."""
    data = begun("enhanced")
    data.NumberOfFrames = len(array)
    with_pixels(data, array)
    data.SharedFunctionalGroupsSequence = [of(PixelMeasuresSequence=[of(PixelSpacing=[2, 1], SliceThickness=3)])]
    groups = []
    for number, height in enumerate(heights):
        group = of(
            PlanePositionSequence=[of(ImagePositionPatient=[-5, 7, height])],
            PlaneOrientationSequence=[of(ImageOrientationPatient=list(AXIAL))],
        )
        for name, value in (frame(number) if frame else {}).items():
            setattr(group, name, value)
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = groups
    return saved(data, path)


def write_segmentation(path: Path, segments: dict[str, np.ndarray], *, colour: Sequence[int] | None = None) -> Path:
    """A SEG of binary segments [z, y, x] on the grid of `write_slices`, its frames sorted by segment, empty ones left out."""
    frames = [(n, k, mask[k]) for n, mask in enumerate(segments.values(), 1) for k in np.flatnonzero(mask.any(axis=(1, 2)))]
    data = begun("SEG")
    data.NumberOfFrames, data.SegmentationType = len(frames), "BINARY"
    data.Rows, data.Columns = frames[0][2].shape
    data.BitsAllocated = data.BitsStored = data.SamplesPerPixel = 1
    data.HighBit, data.PixelRepresentation, data.PhotometricInterpretation = 0, 0, "MONOCHROME2"
    bits = np.packbits(np.concatenate([plane.ravel() > 0 for _, _, plane in frames]), bitorder="little").tobytes()
    data.PixelData = bits + b"\0" * (len(bits) % 2)
    data.SegmentSequence = [of(SegmentNumber=n, SegmentLabel=name) for n, name in enumerate(segments, 1)]
    if colour is not None:
        data.SegmentSequence[0].RecommendedDisplayCIELabValue = list(colour)
    measures = [of(PixelSpacing=[2, 1], SliceThickness=3, SpacingBetweenSlices=3)]
    data.SharedFunctionalGroupsSequence = [
        of(PixelMeasuresSequence=measures, PlaneOrientationSequence=[of(ImageOrientationPatient=list(AXIAL))])
    ]
    data.PerFrameFunctionalGroupsSequence = [
        of(
            PlanePositionSequence=[of(ImagePositionPatient=[-5, 7, 10 + 3 * int(k)])],
            SegmentIdentificationSequence=[of(ReferencedSegmentNumber=n)],
        )
        for n, k, _ in frames
    ]
    return saved(data, path)
