"""Helpers for runs without a window: phantoms in Slicer's scene, and functions to segment them."""

from Testing.slicer import patients
from Testing.slicer.patients import LIVER
from Testing.waiting import wait_until


class Study:
    """A scene with people in it, and a way to run."""

    def __init__(self, client):
        import slicer
        from MASSSlicerLib.runs import order
        from MASSSlicerLib.runs.segmentation import Run
        from MASSSlicerLib.scene import exchange as scene
        from MASSSlicerLib.scene.exports import Exports

        self.slicer, self.module, self.scene, self.Run = slicer, order, scene, Run
        self.client, self.people, self.patients = client, patients.people(3), patients
        self.exports, self.weights = Exports(), "small"
        self.told, self.progress, self.ends, self.log = [], [], [], []

    def volume(self, number, name="scan"):
        return self.patients.scan(self.people[number][0], name)

    def reference(self, number=0, *more):
        """A person with the liver drawn, and whatever else."""
        volume = self.volume(number, "reference")
        drawn = self.patients.drawing(volume)
        self.draw(drawn, volume, number, LIVER, "liver", (0.9, 0.5, 0.4))
        for value, name in more:
            self.draw(drawn, volume, number, value, name)
        return self.module.Reference(volume, drawn)

    def draw(self, segmentation, volume, number, value, name, color=None):
        return self.patients.draw(segmentation, volume, self.people[number][1].array == value, name, color)

    def begin(self, task, cases, **options):
        options.setdefault("settings", self.module.Settings(device="cpu", weights=self.weights))
        options.setdefault("destination", self.module.Destination())
        run = self.Run(
            self.client,
            self.exports,
            task=task,
            cases=cases,
            changed=lambda case: self.told.append((case.name, case.status)),
            log=self.log.append,
            progressed=self.progress.append,
            finished=self.ends.append,
            **options,
        )
        run.start()
        return run

    def until(self, reached):
        wait_until(reached, news=lambda: f"{self.told[-5:]} {self.log[-5:]}", turn=self.client.pump)

    def wait(self, run, until=lambda: False):
        self.until(lambda: not run.active or until())

    def run(self, task, cases, **options):
        run = self.begin(task, cases, **options)
        self.wait(run)
        return run

    def case(self, volume):
        from MASSSlicerLib.runs.cases import Case

        return Case(volume.GetName(), volume_id=volume.GetID())

    def mask(self, case, volume):
        node = self.slicer.mrmlScene.GetNodeByID(case.segmentation_id)
        return self.patients.mask_of(node, case.segment_ids[0], volume)

    def dice(self, case, volume, number):
        return self.patients.dice(self.mask(case, volume), self.people[number][1].array == LIVER)
