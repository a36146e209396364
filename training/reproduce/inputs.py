"""Data and weights of the paper's tables: where they lie, who publishes them, and what is missing here."""

from dataclasses import dataclass
from pathlib import Path

from mass_core.data.released_layout import is_released
from mass_core.errors import WeightsError
from mass_core.weights.store import locate


@dataclass(frozen=True, kw_only=True)
class Data:
    """A labelled dataset of the paper (its table 10)."""

    title: str
    """In the paper's tables."""
    kind: str = ""
    """As `--dataset-kind` of `mass prepare` takes it; empty: prepared already."""
    folder: str = ""
    """Of the scans as published, below `--data`, where it is not called like the dataset."""
    source: str = ""
    modality: str = ""
    """Of the scans that count, where the folder has others too."""
    shares: tuple[float, float, float] = (0.75, 0.05, 0.2)
    """Of train, val and test, where the dataset has no splits of its own (section 7.5)."""
    profile: str = "auto"
    """Of SAM2."""
    labels: tuple[int, ...] = ()
    """Structures that are evaluated; empty: all."""
    scans: int = 0
    """Number the paper gives, to count work."""


_AMOS = "https://zenodo.org/records/7262581"
_BRATS = "https://www.med.upenn.edu/sbia/brats2018/data.html"
_AUTOPET = "https://fdat.uni-tuebingen.de/records/wf9fy-txq84"
_STRUCTSEG = "https://structseg2019.grand-challenge.org/"
_OFFICIAL_TEST = (0.95, 0.05, 0.0)

DATA: dict[str, Data] = {
    "bcv": Data(title="BCV", kind="bcv", source="https://www.synapse.org/#!Synapse:syn3193805/wiki/217789", profile="abdomen_ct", scans=30),
    "amos_ct": Data(
        title="AMOS CT", kind="amos", folder="amos", source=_AMOS, modality="ct", shares=_OFFICIAL_TEST, profile="abdomen_ct", scans=300
    ),
    "amos_mr": Data(
        title="AMOS MR",
        kind="amos",
        folder="amos",
        source=_AMOS,
        modality="mr",
        shares=_OFFICIAL_TEST,
        profile="abdomen_mr",
        labels=tuple(range(1, 14)),
        scans=60,
    ),
    "ss_hn": Data(title="SS H&N", kind="structseg-head", source=_STRUCTSEG, profile="head_neck_ct", scans=50),
    "ss_thoracic": Data(title="SS Thoracic", kind="structseg-thoracic", source=_STRUCTSEG, profile="chest_ct", scans=50),
    "kits": Data(
        title="KiTS Tumor", kind="kits", source="https://github.com/neheller/kits19", profile="abdomen_ct", labels=(2,), scans=210
    ),
    "lits": Data(
        title="LiTS Tumor",
        kind="lits",
        source="https://competitions.codalab.org/competitions/17094",
        profile="abdomen_ct",
        labels=(2,),
        scans=131,
    ),
    "autopet": Data(title="AutoPET", kind="autopet", source=_AUTOPET, modality="pet", profile="whole_body_pet", scans=1014),
    "autopet_ct": Data(
        title="AutoPET CT", kind="autopet", folder="autopet", source=_AUTOPET, modality="ct", profile="whole_body_ct", scans=1014
    ),
    "brats": Data(title="BraTS", kind="brats", source=_BRATS, profile="brain_mr", scans=639),
    "brats_t1ce": Data(title="BraTS T1CE", kind="brats", source=_BRATS, profile="brain_mr", scans=213),
    "mnms": Data(title="M&Ms", kind="mnms", source="https://www.ub.edu/mnms/", shares=_OFFICIAL_TEST, profile="cardiac_mr", scans=320),
    "acdc": Data(
        title="ACDC", kind="acdc", source="https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html", profile="cardiac_mr", scans=100
    ),
    "pelvic": Data(title="Pelvic", kind="ctpelvic1k", source="https://zenodo.org/record/4588403", profile="whole_body_ct", scans=103),
    "totalseg_ct": Data(
        title="TotalSeg CT",
        kind="totalsegmentator-ct",
        source="https://doi.org/10.5281/zenodo.6802613",
        profile="whole_body_ct",
        scans=1229,
    ),
    "totalseg_mr": Data(
        title="TotalSeg MR", kind="totalsegmentator-mr", source="https://zenodo.org/records/11367005", profile="whole_body_mr", scans=299
    ),
}
"""By the name that folders below `--data` and `--output` have."""

UPSTREAM = (
    *("amos_ct", "amos_mr", "autopet", "autopet_ct", "bcv", "brats", "kits", "lits", "mnms"),
    *("ss_hn", "ss_thoracic", "totalseg_ct", "totalseg_mr"),
)
"""Datasets of the large-scale pretraining (table 10); AutoPET's two modalities apart."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A classification of whole scans."""

    title: str
    folder: str
    """Below `--data`, with `images/`."""
    table: str
    """In it: the table of labels, as `training.classify` takes it."""
    source: str
    scans: tuple[int, int]
    """Numbers the paper gives, of the training scans and of all, to count work."""


_ICH = "https://www.kaggle.com/c/rsna-intracranial-hemorrhage-detection"
_TRAUMA = "https://www.kaggle.com/c/rsna-2023-abdominal-trauma-detection"
LABELS: dict[str, Labels] = {
    "rsna_ich": Labels(title="RSNA ICH", folder="rsna_ich", table="labels.csv", source=_ICH, scans=(15220, 21744)),
    **{
        organ: Labels(title=f"{organ.title()} Trauma", folder="rsna_trauma", table=f"{organ}.csv", source=_TRAUMA, scans=(3061, 4710))
        for organ in ("liver", "kidney", "spleen")
    },
}


def is_prepared(folder: Path) -> bool:
    """True if a folder is a dataset of `mass prepare`, or one of the released layout."""
    ours = (folder / "cases").is_dir() and (folder / "dataset.json").is_file()
    return ours or (folder.is_dir() and is_released(folder))


@dataclass(frozen=True)
class Need:
    """A file, a folder or published weights that a run takes and no run makes."""

    title: str
    """Name of published weights, where `path` is None."""
    path: Path | None = None
    source: str = ""
    """Official page."""

    def missing(self) -> str:
        """A message with the official source; empty: nothing is missing."""
        if self.path is not None:
            there = self.path.exists()
            return "" if there else f"{self.title}: {self.path} is not there. Source: {self.source} (docs/reproduce.md)."
        try:
            locate(self.title)
        except WeightsError as error:
            return f"{error.message} {error.cure}"
        return ""
