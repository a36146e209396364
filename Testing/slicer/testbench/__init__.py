"""The testbench: runs a scripted module of Slicer, its .py and .ui files as they ship, without Slicer.

What is real: the scene, its nodes and logics, reading and writing, rendering (Slicer's own code, from the package slicer-core), and Qt's
widgets and event loop (PySide6). What stands in, written for exactly what MASSSlicer uses: the application object, the ScriptedLoadable*
classes, parameterNodeWrapper, PythonQt's manners (`qt`), CTK's widgets (`ctk`) and the widgets bound to the scene. Properties, signals and
slots of the stand-ins are those of the real headers; what a real widget would not take, they refuse.

What it cannot show: looks and finer behaviour of the real widgets, the Segment Editor's tools, PythonQt's ownership rules, the module
factory.

`host.Host` needs slicer-core only; `bench.Bench` adds PySide6.
"""
