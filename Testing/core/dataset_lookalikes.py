"""Miniatures of public datasets: the folders of the real ones, with volumes of a few voxels whose labelled parts are bright.

Each builder fills a folder and returns the cases that should be found: name to (patient, modality, official split or None). The labelled
block of a scan lies at a place of its own, so a label map of another scan, or another grid, does not fit.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mass_core.volumes.volume import Geometry, Volume

SHAPE = (6, 8, 12)
SPACING_XYZ = (1.0, 1.5, 3.0)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
Expected = dict[str, tuple[str, str, str | None]]


def block(seed: int) -> tuple[slice, slice, slice]:
    """Block of a scan's label, off every centre: 16 voxels, more than the percentiles of MR cut off."""
    return slice(1, 3), slice(1, 5), slice(seed % 9, seed % 9 + 2)


def arrays(seed: int, value: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map of a scan."""
    image = np.random.default_rng(seed).integers(0, 50, SHAPE).astype(np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[block(seed)] = value
    image[labels > 0] += 400
    return image, labels


def write(path: Path, *frames: np.ndarray, spacing: tuple[float, ...] = SPACING_XYZ, direction: tuple[float, ...] = IDENTITY) -> None:
    """One volume, or several as a 4D file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    geometry = Geometry(shape_zyx=SHAPE, spacing_xyz=(spacing[0], spacing[1], spacing[2]), origin_xyz=(5, 6, 7), direction=direction)
    volumes = [Volume(frame, geometry).to_sitk() for frame in frames]
    sitk.WriteImage(volumes[0] if len(volumes) == 1 else sitk.JoinSeries(volumes), str(path))


def pair(image: Path, label: Path | None, seed: int, value: int = 1, **grid: tuple[float, ...]) -> None:
    """A scan and its label map."""
    array, labels = arrays(seed, value)
    write(image, array, **grid)
    if label is not None:
        write(label, labels, **grid)


def amos(folder: Path) -> Expected:
    for part, number, seed in (("Tr", "0001", 0), ("Tr", "0507", 1), ("Va", "0010", 2), ("Ts", "0599", 3)):
        label = None if part == "Ts" else folder / f"labels{part}" / f"amos_{number}.nii.gz"
        pair(folder / f"images{part}" / f"amos_{number}.nii.gz", label, seed, 15)
    return {
        "amos_0001": ("amos_0001", "ct", "train"),
        "amos_0507": ("amos_0507", "mr", "train"),
        "amos_0010": ("amos_0010", "ct", "test"),
    }


def bcv(folder: Path) -> Expected:
    for number in (1, 2):
        raw = folder / "RawData" / "Training"
        pair(raw / "img" / f"img000{number}.nii.gz", raw / "label" / f"label000{number}.nii.gz", number, 13)
    pair(folder / "RawData" / "Testing" / "img" / "img0061.nii.gz", None, 3)
    return {"img0001": ("img0001", "ct", None), "img0002": ("img0002", "ct", None)}


def kits(folder: Path) -> Expected:
    for number in (0, 1):
        case = folder / "data" / f"case_0000{number}"
        pair(case / "imaging.nii.gz", case / "segmentation.nii.gz", number, 2)
    pair(folder / "data" / "case_00210" / "imaging.nii.gz", None, 2)
    (folder / "data" / "kits.json").write_text("[]")
    return {"case_00000": ("case_00000", "ct", None), "case_00001": ("case_00001", "ct", None)}


def lits(folder: Path) -> Expected:
    for batch, number in ((1, 3), (2, 28), (2, 34)):
        place = folder / f"Training Batch {batch}"
        spacing = SPACING_XYZ if number == 3 else (1.0, 1.0, 1.0)
        pair(place / f"volume-{number}.nii", place / f"segmentation-{number}.nii", number, 2, spacing=spacing)
    pair(folder / "test" / "test-volume-3.nii", None, 5)
    return {f"volume-{number}": (f"volume-{number}", "ct", None) for number in (3, 28, 34)}


def mnms(folder: Path) -> Expected:
    rows = ["External code,VendorName,ED,ES"]
    parts = (("Training/Labeled", "A0S9V9", "train"), ("Validation", "B1K2L3", "val"), ("Testing", "C4M5N6", "test"))
    for seed, (part, patient, _) in enumerate(parts):
        place = folder / part / patient
        (first, first_labels), (_, none), (last, last_labels) = arrays(seed), arrays(9), arrays(seed + 3, 3)
        write(place / f"{patient}_sa.nii.gz", first, arrays(9)[0], last)
        write(place / f"{patient}_sa_gt.nii.gz", first_labels, none * 0, last_labels)
        rows.append(f"{patient},Siemens,2,0")
    (folder / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv").write_text("\n".join(rows))
    return {f"{patient}_frame{frame}": (patient, "mr", split) for _, patient, split in parts for frame in ("00", "02")}


def acdc(folder: Path) -> Expected:
    for part, patient, seed in (("training", "patient001", 0), ("testing", "patient101", 3)):
        place = folder / "database" / part / patient
        write(place / f"{patient}_4d.nii.gz", arrays(8)[0], arrays(8)[0])
        for frame in ("01", "12"):
            pair(place / f"{patient}_frame{frame}.nii.gz", place / f"{patient}_frame{frame}_gt.nii.gz", seed + int(frame[0]), 3)
    return {
        f"{patient}_frame{frame}": (patient, "mr", split)
        for patient, split in (("patient001", "train"), ("patient101", "test"))
        for frame in ("01", "12")
    }


def brats(folder: Path) -> Expected:
    found: Expected = {}
    for seed, (grade, case, patient) in enumerate(
        (("HGG", "Brats18_2013_2_1", "Brats18_2013_2"), ("LGG", "BraTS20_Training_001", "BraTS20_Training_001"))
    ):
        place = folder / grade / case
        array, labels = arrays(seed, 4)
        write(place / f"{case}_seg.nii.gz", labels)
        for gain, channel in enumerate(("flair", "t1", "t1ce", "t2"), start=1):
            write(place / f"{case}_{channel}.nii.gz", array * np.int16(gain))
            found[f"{case}_{channel}"] = (patient, "mr", None)
    return found


def structseg_head(folder: Path) -> Expected:
    for number in (1, 2):
        pair(folder / "HaN_OAR" / str(number) / "data.nii.gz", folder / "HaN_OAR" / str(number) / "label.nii.gz", number, 22)
    return {f"head_{number}": (f"head_{number}", "ct", None) for number in (1, 2)}


def structseg_thoracic(folder: Path) -> Expected:
    for number in (1, 2):
        pair(folder / str(number) / "data.nii.gz", folder / str(number) / "label.nii.gz", number, 6)
    return {f"thoracic_{number}": (f"thoracic_{number}", "ct", None) for number in (1, 2)}


def _totalsegmentator(folder: Path, modality: str, image: str) -> Expected:
    parts = (("s0001", "train"), ("s0002", "val"), ("s0003", "test"))
    for seed, (case, _) in enumerate(parts):
        array, labels = arrays(seed)
        write(folder / case / f"{image}.nii.gz", array)
        for name in ("aorta", "liver", "spleen"):
            write(folder / case / "segmentations" / f"{name}.nii.gz", labels if name == "spleen" else labels * 0)
    rows = ["image_id;age;gender;split", *(f"{case};50;m;{split}" for case, split in parts)]
    (folder / "meta.csv").write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    return {case: (case, modality, split) for case, split in parts}


def totalsegmentator_ct(folder: Path) -> Expected:
    return _totalsegmentator(folder, "ct", "ct")


def totalsegmentator_mr(folder: Path) -> Expected:
    return _totalsegmentator(folder, "mr", "mri")


def autopet(folder: Path) -> Expected:
    found: Expected = {}
    studies = (("PETCT_0011f3deaf", "03-23-2003-NA-PET-CT Ganzkoerper"), ("PETCT_0011f3deaf", "09-01-2004-NA-Ä"), ("PETCT_01140d52d8", "x"))
    for seed, (patient, study) in enumerate(studies):
        place = folder / "FDG-PET-CT-Lesions" / patient / study
        array, labels = arrays(seed)
        write(place / "SUV.nii.gz", (array / 40).astype(np.float32))
        write(place / "CTres.nii.gz", array)
        write(place / "CT.nii.gz", arrays(8)[0])
        write(place / "SEG.nii.gz", labels)
        name = f"{patient}_{study}".replace(" ", "_").replace("Ä", "_")
        found |= {f"{name}_SUV": (patient, "pet", None), f"{name}_CTres": (patient, "ct", None)}
    return found


def ctpelvic1k(folder: Path) -> Expected:
    for number in (1, 2):
        name = f"dataset6_CLINIC_000{number}"
        label = folder / "ipcai2021_dataset6_Anonymized" / f"{name}_mask_4label.nii.gz"
        pair(folder / "CTPelvic1K_dataset6_data" / f"{name}_data.nii.gz", label, number, 4)
    return {f"dataset6_CLINIC_000{number}": (f"dataset6_CLINIC_000{number}", "ct", None) for number in (1, 2)}


def msd(folder: Path) -> Expected:
    task = folder / "Task01_BrainTumour"
    described = {"labels": {"0": "background", "1": "edema", "2": "tumour"}, "modality": {"0": "FLAIR", "1": "T1 w", "2": "CT"}}
    task.mkdir(parents=True)
    (task / "dataset.json").write_text(json.dumps(described))
    for number in (1, 2):
        array, labels = arrays(number, 2)
        write(task / "imagesTr" / f"BRATS_00{number}.nii.gz", array, array * 2, array - 100)
        write(task / "labelsTr" / f"BRATS_00{number}.nii.gz", labels)
    (task / "imagesTr" / "._BRATS_001.nii.gz").write_bytes(b"macOS leaves such files in the archive")
    write(task / "imagesTs" / "BRATS_003.nii.gz", *[arrays(3)[0]] * 3)
    return {
        f"BRATS_00{number}_{channel}": (f"BRATS_00{number}", modality, None)
        for number in (1, 2)
        for channel, modality in (("FLAIR", "mr"), ("T1_w", "mr"), ("CT", "ct"))
    }


def nnunet(folder: Path) -> Expected:
    """Two channels, another format, a label that is missing among the numbers, one fold."""
    task = folder / "nnUNet_raw" / "Dataset007_Two"
    described = {
        "channel_names": {"0": "CT", "1": "T2 w"},
        "labels": {"background": 0, "kidney": 1, "cyst": 3},
        "numTraining": 2,
        "file_ending": ".nrrd",
    }
    task.mkdir(parents=True)
    (task / "dataset.json").write_text(json.dumps(described))
    (task / "splits_final.json").write_text(json.dumps([{"train": ["k_1"], "val": ["k_2"]}, {"train": ["k_2"], "val": ["k_1"]}]))
    for part, name, seed in (("Tr", "k_1", 1), ("Tr", "k_2", 2), ("Ts", "k_9", 3)):
        pair(task / f"images{part}" / f"{name}_0000.nrrd", task / f"labels{part}" / f"{name}.nrrd", seed, 3)
        write(task / f"images{part}" / f"{name}_0001.nrrd", arrays(seed)[0] * 2)
    return {
        f"{name}_{channel}": (name, modality, split)
        for name, split in (("k_1", "train"), ("k_2", "val"), ("k_9", "test"))
        for channel, modality in (("CT", "ct"), ("T2_w", "mr"))
    }


def bids(folder: Path) -> Expected:
    """Two subjects, one with two sessions and runs; a pipeline's label maps and table, beside its copies of the images."""
    raw, made = folder / "study", folder / "study" / "derivatives" / "manual"
    (made / "sub-1").mkdir(parents=True)
    (raw / "dataset_description.json").write_text('{"Name": "study", "BIDSVersion": "1.9.0"}')
    (made / "dseg.tsv").write_text("index\tname\tcolor\n0\tbackground\t#000000\n2\tamygdala\t#ff0000\n5\thippocampus\t#00ff00\n")
    pair(raw / "sub-1/anat/sub-1_T1w.nii.gz", made / "sub-1/anat/sub-1_dseg.nii.gz", 1, 5)
    pair(made / "sub-1/anat/sub-1_desc-preproc_T1w.nii.gz", None, 4)
    pair(made / "sub-1/anat/sub-1_T1w.nii.gz", None, 4)
    for session, more, seed in (("a", "", 2), ("b", "_run-2", 3)):
        name = f"ses-{session}/anat/sub-2_ses-{session}{more}"
        pair(raw / f"sub-2/{name}_T2w.nii.gz", made / f"sub-2/{name}_space-T2w_desc-corrected_dseg.nii.gz", seed, 5)
    (raw / "sub-2/ses-a/func").mkdir()
    return {f"sub-{name}": (f"sub-{name[0]}", "mr", None) for name in ("1_T1w", "2_ses-a_T2w", "2_ses-b_run-2_T2w")}


LOOKALIKES: dict[str, tuple[Callable[[Path], Expected], dict[int, str], int]] = {
    "amos": (amos, {1: "spleen", 6: "liver", 10: "pancreas", 14: "bladder"}, 15),
    "bcv": (bcv, {1: "spleen", 10: "portal and splenic vein", 13: "left adrenal gland"}, 13),
    "kits": (kits, {1: "kidney", 2: "kidney tumor"}, 2),
    "lits": (lits, {1: "liver", 2: "liver tumor"}, 2),
    "mnms": (mnms, {1: "left ventricle", 2: "myocardium", 3: "right ventricle"}, 3),
    "acdc": (acdc, {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}, 3),
    "brats": (brats, {2: "edema", 4: "enhancing tumor"}, 4),
    "structseg-head": (structseg_head, {1: "brain stem", 11: "pituitary", 20: "spinal cord", 22: "right mandible"}, 22),
    "structseg-thoracic": (structseg_thoracic, {1: "left lung", 3: "heart", 6: "spinal cord"}, 6),
    "totalsegmentator-ct": (totalsegmentator_ct, {1: "aorta", 2: "liver", 3: "spleen"}, 3),
    "totalsegmentator-mr": (totalsegmentator_mr, {1: "aorta", 2: "liver", 3: "spleen"}, 3),
    "autopet": (autopet, {1: "lesion"}, 1),
    "ctpelvic1k": (ctpelvic1k, {1: "sacrum", 4: "lumbar vertebrae"}, 4),
    "msd": (msd, {1: "edema", 2: "tumour"}, 2),
    "nnunet": (nnunet, {1: "kidney", 3: "cyst"}, 3),
    "bids": (bids, {2: "amygdala", 5: "hippocampus"}, 5),
}
"""Of each kind: its builder, some of its label names, and the value its label maps hold."""
