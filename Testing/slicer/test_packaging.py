"""Contents of the extension's package: metadata of the CMake files, and an installation with stand-ins for Slicer's macros."""

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOP = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
ENTRY = REPOSITORY / "docs/MASSSlicer.json"
MODULE, LIBRARY, TRAINING = (REPOSITORY / name for name in ("MASSSlicer", "mass_core", "training"))


def on_disk(folder: Path) -> set[str]:
    """Files below a folder, without what Python and the file manager leave behind."""
    found = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.name not in ("CMakeLists.txt", ".DS_Store"))
    return {p.relative_to(folder).as_posix() for p in found}


def metadata(name: str) -> str:
    """A value as the Extensions Index finds it: the literal behind `set(`."""
    return re.search(rf'set\s*\(EXTENSION_{name}\s*"([^"]+)"[ ]*\)', TOP)[1]


def test_no_stray_python_file_beside_the_module() -> None:
    """Slicer takes every .py in this folder for a module."""
    assert [p.name for p in MODULE.glob("*.py")] == ["MASSSlicer.py"]


def test_metadata_as_the_index_wants_it() -> None:
    assert re.findall(r"project\s*\(\s*([^\s\)\n\r]+)", TOP) == [ENTRY.stem]
    assert not ENTRY.stem.lower().startswith("slicer")
    assert metadata("CATEGORY") == json.loads(ENTRY.read_text())["category"] == "Segmentation"
    assert metadata("DEPENDS").split() == json.loads(ENTRY.read_text())["build_dependencies"] == ["PyTorch"]
    assert len(metadata("DESCRIPTION")) > 50 and metadata("CONTRIBUTORS")
    assert (REPOSITORY / "LICENSE").is_file() and "LICENSE" in metadata("LICENSE_FILE") and "README.md" in metadata("README_FILE")


def test_entry_of_the_index() -> None:
    text, entry = ENTRY.read_bytes(), json.loads(ENTRY.read_text())
    assert b"\r" not in text and text.endswith(b"}\n")
    allowed = {"category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "build_subdirectory", "enabled", "tier"}
    assert set(entry) - {"$schema"} <= allowed and entry["$schema"].startswith("https://") and 1 <= entry["tier"] <= 5
    repository = entry["scm_url"].removesuffix(".git")
    assert repository.rsplit("/", 1)[1].startswith("Slicer") and repository == metadata("HOMEPAGE")


def test_pictures_behind_the_urls_are_in_the_repository() -> None:
    raw = metadata("HOMEPAGE").replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/"
    urls = [metadata("ICONURL"), *metadata("SCREENSHOTURLS").split()]
    assert [url for url in urls if not url.startswith(raw)] == []
    assert [url for url in urls if not (REPOSITORY / url.removeprefix(raw)).is_file()] == []


def test_icon_is_a_png_of_128_pixels() -> None:
    data = (MODULE / "Resources/Icons/MASSSlicer.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", data[16:24]) == (128, 128)


def test_requirements_agree_with_those_of_the_library() -> None:
    lines = (MODULE / "Resources/requirements.txt").read_text().splitlines()
    wanted = {line for line in lines if line and not line.startswith("#")}
    assert wanted == set(re.findall(r'"((?:torch|safetensors)>=[^"]+)"', (REPOSITORY / "pyproject.toml").read_text()))


STAND_IN = """
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/modules)
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/told.cmake)
set(BUILD_TESTING ON)

function(install_files destination)
  foreach(file ${ARGN})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "missing: ${file}")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    install(FILES ${file} DESTINATION ${destination}/${folder})
  endforeach()
endfunction()

macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT MY_NAME)
    message(FATAL_ERROR "unknown: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  message(STATUS "generic tests: ${MY_WITH_GENERIC_TESTS}")
  install_files(${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR} ${MY_SCRIPTS} ${MY_RESOURCES})
endmacro()

macro(ctkMacroCompilePythonScript)
  cmake_parse_arguments(MY "NO_INSTALL_SUBDIR" "TARGET_NAME;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT MY_NO_INSTALL_SUBDIR)
    message(FATAL_ERROR "unknown: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  install_files(${MY_INSTALL_DIR} ${MY_SCRIPTS} ${MY_RESOURCES})
endmacro()

macro(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "SCRIPT" "" ${ARGN})
  get_filename_component(path ${MY_SCRIPT} ABSOLUTE)
  if(NOT EXISTS ${path})
    message(FATAL_ERROR "no test ${MY_SCRIPT}")
  endif()
  message(STATUS "self test: ${path}")
endmacro()
"""
"""Takes the place of Slicer's build tree; the macros check and install what theirs would."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The extension configured and installed by CMake, and what CMake said."""
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("cmake and a C++ compiler are not installed")
    folder = tmp_path_factory.mktemp("packaging")
    (folder / "SlicerConfig.cmake").write_text(STAND_IN)
    (folder / "nothing.cmake").write_text("")
    (folder / "told.cmake").write_text('message(STATUS "readme ${EXTENSION_README_FILE} licence ${EXTENSION_LICENSE_FILE}")\n')
    build, prefix = folder / "build", folder / "installed with späces"
    configure = ["cmake", "-S", str(REPOSITORY), "-B", str(build), f"-DSlicer_DIR={folder}", f"-DCMAKE_INSTALL_PREFIX={prefix}"]
    done = subprocess.run(configure, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run(["cmake", "--install", str(build)], capture_output=True, check=True)
    return prefix / "lib/modules", done.stdout


def test_cmake_installs_every_file_and_registers_the_tests(installed: tuple[Path, str]) -> None:
    modules, told = installed
    beside = {f"{folder.name}/{name}" for folder in (LIBRARY, TRAINING) for name in on_disk(folder)}
    assert on_disk(modules) == on_disk(MODULE) | beside
    assert "generic tests: TRUE" in told and f"self test: {MODULE / 'MASSSlicer.py'}" in told
    assert f"readme {REPOSITORY / 'README.md'} licence {REPOSITORY / 'LICENSE'}" in told


def test_installed_library_runs_with_its_weights(installed: tuple[Path, str], tmp_path: Path) -> None:
    """As in Slicer: rich is not there, and nothing of the repository is on the path."""
    modules, _ = installed
    code = f"""
import sys
sys.path[:0] = [{str(modules)!r}]
for name in ("rich", "skimage", "training"): sys.modules[name] = None
import mass_core, mass_core.worker.server
from mass_core import load_model
print(mass_core.__file__); print(load_model("small", "cpu").fingerprint)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    place, fingerprint = done.stdout.splitlines()
    assert Path(place) == modules / "mass_core/__init__.py"
    card = (REPOSITORY / "mass_core/weights/README.md").read_text(encoding="utf-8")
    assert f"`{fingerprint[:12]}`" in card
