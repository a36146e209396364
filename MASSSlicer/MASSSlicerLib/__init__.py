"""The parts of the module MASSSlicer; `mass_core` comes with the extension, in a checkout it lies beside this folder's parent."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("mass_core") is None:
    sys.path.append(str(Path(__file__).resolve().parents[2]))
