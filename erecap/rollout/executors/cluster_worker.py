"""The worker on a node of a cluster, made from plain objects that travel by pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erecap.config.modes import Mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.errors import ErecapError
from erecap.rollout.components import OpenComponents
from erecap.rollout.executors.serial import PlayOne, to_travel
from erecap.rollout.jobs import Job, Played


class ClusterWorker:
    """Loads what a run plays with, then plays job by job. Known errors are answers; unknown ones end the run.

    Args:
        folder: where the run was started; relative names of models mean the same here if the node has that folder.
        open_components, play_one, config, suites, modes: as for the executors.
    """

    def __init__(
        self,
        folder: str,
        open_components: OpenComponents,
        play_one: PlayOne,
        config: RunConfig,
        suites: Mapping[str, Suite],
        modes: list[Mode],
    ) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        self._open, self._play_one = open_components, play_one
        self._config, self._suites, self._modes = config, suites, modes

    def ready(self) -> tuple[dict[str, Any] | None, int | None] | ErecapError:
        """Load everything. Returns the model's facts and its threads."""
        try:
            self._components = self._open(self._config, self._suites)
            self._components.prepare(self._modes, lambda line: None)
            return self._components.model_facts(), self._components.threads()
        except ErecapError as error:
            return to_travel(error)

    def play(self, job: Job) -> Played | ErecapError:
        """Play one job."""
        try:
            return self._play_one(job, self._config, self._suites, self._components, contended=True)
        except ErecapError as error:
            return to_travel(error)
