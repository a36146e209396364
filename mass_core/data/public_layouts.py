"""Layouts of public datasets as published: paths and meaning of their files. docs/datasets.md names the sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..config import Modality, Triple


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The layout of one dataset.

    Paths are written with slashes and without the `endings` of images, of which any may stand. A name in braces is a group of `image`.
    """

    title: str
    example: str
    """The path of an image, for messages."""
    image: str
    """Regular expression of an image's path; what comes before is the dataset's root."""
    endings: str = r"\.nii(?:\.gz)?"
    """Regular expression of how images and label maps end."""
    name: str = "{case}"
    """Name of the case."""
    label: str = ""
    """Path of the label map seen from the image's folder."""
    derivatives: bool = False
    """Label maps lie apart from the images, as BIDS has it (`bids_layout`); `label` is empty."""
    label_anywhere: bool = False
    """Only the last part of that path counts: copies of the dataset call the folders differently."""
    merged: bool = False
    """`label` is a folder with a file for each class; their numbers are their places in the alphabet."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """Names of the values; empty: `merged`, or given by `description`."""
    modalities: Mapping[str, Modality] = field(default_factory=lambda: {"": "ct"})
    """Modality by a regular expression found in the path of the image, the first that fits; of no use where `description` states it."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Official split by a regular expression found in the path. If none fits: test if only others have labels, else train."""
    table: str = ""
    """Regular expression of a CSV file at the root."""
    table_id: str = ""
    """Its column that holds the group `patient`."""
    table_split: str = ""
    """Its column of splits, which outrank `splits`."""
    table_frames: tuple[str, ...] = ()
    """Its columns that number, from 0, the frames that carry labels: each is a case."""
    description: str = ""
    """A JSON file at the root with label names and channels: the volumes of 4D images, as in MSD's dataset.json, or the files of a
    case where `image` has a group `channel`, as in nnU-Net's."""
    folds: str = ""
    """A JSON file at the root with a list of splits into train and val."""
    direction: tuple[float, ...] | None = None
    """Correct direction of the axes (LPS, row by row)."""
    spacings: Mapping[str, Triple] = field(default_factory=dict)
    """Correct voxel size x, y, z in mm, by a regular expression of the case's name."""
    straighten: bool = False
    """Axes a little off right angles become the nearest that are not."""


_ABDOMEN = ("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "inferior vena cava")
_BCV = (*_ABDOMEN, "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland")
_AMOS = (*_ABDOMEN, "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate or uterus")
_HEAD = (
    *("brain stem", "left eye", "right eye", "left lens", "right lens", "left optic nerve", "right optic nerve", "optic chiasm"),
    *("left temporal lobe", "right temporal lobe", "pituitary", "left parotid gland", "right parotid gland"),
    *("left inner ear", "right inner ear", "left middle ear", "right middle ear"),
    *("left temporomandibular joint", "right temporomandibular joint", "spinal cord", "left mandible", "right mandible"),
)
_THORAX = ("left lung", "right lung", "heart", "esophagus", "trachea", "spinal cord")
_HEART = ("left ventricle", "myocardium", "right ventricle")


def _numbered(names: tuple[str, ...]) -> dict[int, str]:
    return dict(enumerate(names, start=1))


_TOTALSEGMENTATOR = Kind(
    title="TotalSegmentator CT",
    example="s0001/ct.nii.gz",
    image=r"(?P<patient>s\d+)/ct",
    name="{patient}",
    label="segmentations",
    merged=True,
    table=r"meta\.csv",
    table_id="image_id",
    table_split="split",
    straighten=True,
)
_STRUCTSEG_HEAD = Kind(
    title="StructSeg, head and neck",
    example="HaN_OAR/1/data.nii.gz",
    image=r"(?P<case>\d+)/data",
    name="head_{case}",
    label="label",
    labels=_numbered(_HEAD),
)
_DECATHLON = Kind(
    title="Medical Segmentation Decathlon, one task",
    example="Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz",
    image=r"images(?P<part>Tr|Ts)/(?P<case>[^/]+)",
    label="../labels{part}/{case}",
    splits={"imagesTr/": "train", "imagesTs/": "test"},
    description="dataset.json",
)

KINDS: dict[str, Kind] = {
    "amos": Kind(
        title="AMOS",
        example="imagesTr/amos_0001.nii.gz",
        image=r"images(?P<part>Tr|Va|Ts)/(?P<case>amos_\d+)",
        label="../labels{part}/{case}",
        labels=_numbered(_AMOS),
        modalities={r"amos_0[0-4]\d\d$": "ct", "": "mr"},
        splits={"imagesTr/": "train", "images(Va|Ts)/": "test"},
    ),
    "bcv": Kind(
        title="BCV",
        example="RawData/Training/img/img0001.nii.gz",
        image=r"img/(?P<case>img(?P<number>\d+))",
        label="../label/label{number}",
        labels=_numbered(_BCV),
        direction=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    ),
    "kits": Kind(
        title="KiTS",
        example="data/case_00000/imaging.nii.gz",
        image=r"(?P<case>case_\d+)/imaging",
        label="segmentation",
        labels={1: "kidney", 2: "kidney tumor", 3: "kidney cyst"},
    ),
    "lits": Kind(
        title="LiTS",
        example="Training Batch 1/volume-0.nii",
        image=r"(?P<case>(?P<test>test-)?volume-(?P<number>\d+))",
        label="{test}segmentation-{number}",
        labels={1: "liver", 2: "liver tumor"},
        spacings={r"volume-(28|34)": (0.7, 0.7, 2.5)},
    ),
    "mnms": Kind(
        title="M&Ms",
        example="Training/Labeled/A0S9V9/A0S9V9_sa.nii.gz",
        image=r"(?:Training/Labeled|Training/Unlabeled|Validation|Testing)/(?P<patient>[^/]+)/(?P=patient)_sa",
        name="{patient}",
        label="{patient}_sa_gt",
        labels=_numbered(_HEART),
        modalities={"": "mr"},
        splits={"Training/": "train", "Validation/": "val", "Testing/": "test"},
        table=r".*opendataset\.csv",
        table_id="External code",
        table_frames=("ED", "ES"),
        straighten=True,
    ),
    "acdc": Kind(
        title="ACDC",
        example="training/patient001/patient001_frame01.nii.gz",
        image=r"(?P<patient>patient\d+)/(?P<case>(?P=patient)_frame\d+)",
        label="{case}_gt",
        labels=_numbered(_HEART[::-1]),
        modalities={"": "mr"},
        splits={"training/": "train", "testing/": "test"},
    ),
    "brats": Kind(
        title="BraTS 2017 to 2021",
        example="HGG/Brats18_2013_2_1/Brats18_2013_2_1_t1ce.nii.gz",
        # Up to 2019 the last number of a name is that of the examination.
        image=r"(?i:(?P<case>(?P<patient>brats1[789]_[^/]+(?=_\d+/)|brats[^/]+)[^/]*)/(?P=case)_(?P<channel>flair|t1ce|t1|t2))",
        name="{case}_{channel}",
        label="{case}_seg",
        labels={1: "necrotic and non-enhancing tumor core", 2: "edema", 4: "enhancing tumor"},
        modalities={"": "mr"},
    ),
    "structseg-head": _STRUCTSEG_HEAD,
    "structseg-thoracic": replace(
        _STRUCTSEG_HEAD, title="StructSeg, thorax", example="Thoracic_OAR/1/data.nii.gz", name="thoracic_{case}", labels=_numbered(_THORAX)
    ),
    "totalsegmentator-ct": _TOTALSEGMENTATOR,
    "totalsegmentator-mr": replace(
        _TOTALSEGMENTATOR,
        title="TotalSegmentator MR",
        example="s0001/mri.nii.gz",
        image=r"(?P<patient>s\d+)/mri",
        modalities={"": "mr"},
    ),
    "autopet": Kind(
        title="AutoPET",
        example="PETCT_0011f3deaf/03-23-2003-NA-PET-CT/SUV.nii.gz",
        image=r"(?P<patient>PETCT_[^/]+)/(?P<case>[^/]+)/(?P<channel>SUV|CTres)",
        name="{patient}_{case}_{channel}",
        label="SEG",
        labels={1: "lesion"},
        modalities={"SUV$": "pet", "CTres$": "ct"},
    ),
    "ctpelvic1k": Kind(
        title="CTPelvic1K, dataset 6",
        example="CTPelvic1K_dataset6_data/dataset6_CLINIC_0001_data.nii.gz",
        image=r"(?P<case>dataset6_CLINIC_\d+)_data",
        label="{case}_mask_4label",
        label_anywhere=True,
        labels={1: "sacrum", 2: "right hip", 3: "left hip", 4: "lumbar vertebrae"},
    ),
    "msd": _DECATHLON,
    "nnunet": replace(
        _DECATHLON,
        title="nnU-Net",
        example="imagesTr/case_0000.nii.gz",
        image=r"images(?P<part>Tr|Ts)/(?P<case>[^/]+)_(?P<channel>\d{4})",
        endings=r"\.(?:nii(?:\.gz)?|nrrd|mha)",
        folds="splits_final.json",
    ),
    "bids": Kind(
        title="BIDS",
        example="sub-01/anat/sub-01_T1w.nii.gz",
        image=r"(?P<patient>sub-[^/_]+)/(?:ses-[^/]+/)?(?:anat|ct|pet)/(?P<case>(?P=patient)(?:_(?!(?:space|desc|label|res|den)-)[a-z]+-[^/_]+)*)"
        r"_(?P<channel>(?!dseg|probseg|mask|defacemask)[A-Za-z0-9]+)",
        name="{case}_{channel}",
        derivatives=True,
        modalities={"_ct$": "ct", "_pet$": "pet", "": "mr"},
    ),
}
