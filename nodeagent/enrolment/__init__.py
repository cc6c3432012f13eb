"""Which cgroups of this node are captured: found, told to the workers, served, captured; and the
programs that wait for it.

Nouns: ``Enroller`` (enroller: looks for cgroups and puts them in force, step by step),
``NodeEnrolment`` and ``CaptureStanding`` (standing: the stage of each cgroup), ``Stage`` (stages:
the table of stages; pure), ``WaitingRoom`` (waiting: questions that are answered once it is so).
Imported by ``main``, ``manager``.
"""
