"""Cost of the way from a volume of Slicer to the worker and back, and responsiveness of Slicer meanwhile.

    python -m Testing.benchmarks.slicer_roundtrip [--shape 300 512 512]

On the testbench (Slicer's own libraries, stand-ins for its widgets) with the bundled weights on the CPU:

- round trip: seconds to export the scan and the mask, to read and write in the worker, and to put the result back, for a large scan
- again: seconds of the second run, after an edit of the reference, beside the first
- usable: the longest time the event loop was held up while a run was on, and while a model was trained; cancel to idle
- start: seconds until `mass --help` has answered, beside a bare interpreter
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mass_core.data.phantoms import subject


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512), metavar=("Z", "Y", "X"), help="voxels of the large scan")
    shape = tuple(parser.parse_args().shape)
    os.environ["MASS_PYTHON"] = sys.executable
    os.environ["MASS_HOME"] = tempfile.mkdtemp()
    from Testing.slicer.testbench.bench import Bench

    bench = Bench(Path(tempfile.mkdtemp()))
    bench.application.testing = True
    try:
        round_trip(bench, shape)
        usable(bench)
        trained(bench)
    finally:
        bench.close()
    bare, told = (started(*arguments) for arguments in (("-c", "pass"), ("-m", "mass_core", "--help")))
    print(f"\nmass --help: {told:.2f} s; a bare interpreter: {bare:.2f} s")


def patient(name, seed, shape, spacing):
    """A volume node of a phantom, and its liver drawn."""
    from Testing.slicer import patients

    image, labels = subject(seed, "ct", shape_zyx=shape, spacing_zyx=spacing)
    volume = patients.scan(image, name)
    drawn = patients.drawing(volume)
    patients.draw(drawn, volume, labels.array == patients.LIVER, "liver")
    return volume, drawn


def round_trip(bench, shape):
    """One large scan there and back; the worker's own seconds tell what the network took."""
    from MASSSlicerLib.scene import exchange as scene
    from MASSSlicerLib.scene.exports import Exports

    from mass_core.worker.transport import LocalClient

    spacing = tuple(float(edge / count) for edge, count in zip((304.0, 307.0, 358.0), shape, strict=True))
    volume, drawn = patient("large", 1, shape, spacing)
    exports, client = Exports(), LocalClient()
    seconds = {}
    image = timed(seconds, "export the scan", lambda: exports.volume(volume))
    (mask,), _ = timed(seconds, "export the mask", lambda: scene.write_masks(volume, drawn, {"liver": 1}, exports.new(".nrrd")))
    output = exports.folder / "found.nrrd"
    order = {"device": "cpu", "references": [{"image": str(image), "mask": str(mask)}], "target": str(image), "output": str(output)}
    client.ask("load", {"device": "cpu"})
    reply = timed(seconds, "worker", lambda: client.ask("segment", order))
    seconds.update({f"worker: {stage}": value for stage, value in reply["timings"].items()})
    timed(seconds, "result to the scene", lambda: scene.place_result(volume, output, {1: scene.LabelStyle("liver")}))
    client.close()
    exports.close()
    print(f"\nround trip of {shape[2]} x {shape[1]} x {shape[0]} voxels")
    for what, value in seconds.items():
        print(f"  {what:<24} {value:7.2f} s")
    there_and_back = ("export the scan", "export the mask", "worker: read", "worker: write", "result to the scene")
    print(f"  there and back, without the network and its preparation: {sum(seconds.get(what, 0) for what in there_and_back):.2f} s")


def usable(bench):
    """Runs in the window: longest hold-up, second run beside the first, cancel."""
    import slicer

    from Testing.slicer import patients

    slicer.mrmlScene.Clear(0)
    widget = bench.module("MASSSlicer")
    from MASSSlicerLib.scene import exchange as scene

    reference, drawn = patients.large(0, "reference")
    target, _ = patients.large(1, "target")
    bench.process_events()
    row = widget.window.references.rows[0]
    row.volume.setCurrentNode(reference)
    row.segmentation.setCurrentNode(drawn)
    widget.window.parameters.targetVolumes = [target]
    bench.process_events()
    worst = []
    for run in ("first", "again"):
        with bench.latency() as latency:
            began = time.monotonic()
            widget.ui.segmentButton.click()
            bench.wait_until(lambda: not widget.logic.busy, seconds=600)
        print(f"\n{run} run: {time.monotonic() - began:.2f} s; longest hold-up of the window {latency.worst_ms:.0f} ms")
        worst.append(latency.worst_ms)
        (segment_id,) = scene.segment_ids(drawn)
        mask = patients.mask_of(drawn, segment_id, reference)
        mask[mask.nonzero()[0][:20]] = 0
        patients.redraw(drawn, reference, mask, segment_id)
    widget.ui.segmentButton.click()
    bench.wait_until(lambda: widget.ui.progressBar.value > 200, seconds=60)
    began = time.monotonic()
    widget.ui.cancelButton.click()
    bench.wait_until(lambda: not widget.logic.engine.client.busy, seconds=30)
    print(f"\ncancel to idle: {time.monotonic() - began:.2f} s")


def trained(bench):
    """Finetune on two people for one epoch of the shortest recipe: the longest hold-up."""
    import slicer

    from Testing.slicer import patients

    slicer.mrmlScene.Clear(0)
    bench.process_events()
    widget = bench.panel("MASSSlicer").self()
    for number in range(2):
        patients.large(number, f"person {number}")
    bench.process_events()
    widget.ui.allAnnotatedButton.click()
    widget.ui.tuneNameEdit.text = "benchmark"
    widget.ui.tuneAmountSpin.value = 1
    widget.window.finetune.recipe = "smoke"
    with bench.latency() as latency:
        widget.ui.tuneStartButton.click()
        bench.wait_until(lambda: not widget.logic.busy, seconds=1800)
    print(f"\ntraining: longest hold-up of the window {latency.worst_ms:.0f} ms; {widget.ui.tuneLabel.text}")


def started(*arguments):
    """Seconds that Python takes for something, in the best of five."""
    seconds = {}
    for number in range(5):
        timed(seconds, number, lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True))
    return min(seconds.values())


def timed(seconds, what, action):
    """Result of an action; its seconds are noted."""
    began = time.monotonic()
    found = action()
    seconds[what] = time.monotonic() - began
    return found


if __name__ == "__main__":
    main()
