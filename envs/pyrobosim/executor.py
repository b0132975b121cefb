"""Path execution in simulated time: a robot is moved along its path at once, and the seconds are counted."""

from __future__ import annotations

from pyrobosim.navigation.types import PathExecutor
from pyrobosim.planning.actions import ExecutionResult, ExecutionStatus
from pyrobosim.utils.path import Path
from pyrobosim.utils.pose import Pose
from pyrobosim.utils.trajectory import get_constant_speed_trajectory


class InstantExecutor(PathExecutor):
    """Moves a robot along a path without waiting.

    pyrobosim's own executor sleeps through every step of a path. This one costs no wall time, starts no thread, and
    gives the same end, distance and battery each time.

    Args:
        linear_velocity: metres a second.
        max_angular_velocity: radians a second; None: turning takes no time.
    """

    def __init__(self, linear_velocity: float = 1.0, max_angular_velocity: float | None = None) -> None:
        super().__init__()
        self.linear_velocity = linear_velocity
        self.max_angular_velocity = max_angular_velocity
        self.seconds = 0.0  # simulated, of all paths so far
        self.metres = 0.0  # of all paths so far
        self._passed: list[tuple[float, float]] = []

    def execute(self, path: Path, realtime_factor: float = 1.0, battery_usage: float = 0.0) -> ExecutionResult:
        """Follow a path to its end, or to the point at which the battery is empty.

        Args:
            path: at least two poses.
            realtime_factor: of pyrobosim's interface; there is no real time here.
            battery_usage: per cent of battery that a metre costs.
        """
        robot = self.robot
        assert robot is not None
        trajectory = get_constant_speed_trajectory(path, self.linear_velocity, self.max_angular_velocity)
        if trajectory is None:
            return ExecutionResult(ExecutionStatus.PRECONDITION_FAILURE, "the path has no length")
        for index in range(1, trajectory.num_points()):
            before, after = trajectory.poses[index - 1], trajectory.poses[index]
            length = before.get_linear_distance(after)
            share = 1.0
            if battery_usage * length > robot.battery_level:
                share = robot.battery_level / (battery_usage * length)
            self._stand(_between(before, after, share))
            self.metres += share * length
            self.seconds += share * float(trajectory.t_pts[index] - trajectory.t_pts[index - 1])
            robot.battery_level = max(0.0, robot.battery_level - battery_usage * share * length)
            if share < 1.0:
                robot.battery_level = 0.0
                return ExecutionResult(ExecutionStatus.EXECUTION_FAILURE, "the battery is empty")
        return ExecutionResult(ExecutionStatus.SUCCESS)

    def take_passed(self) -> list[tuple[float, float]]:
        """The points (x, y) that were passed since this was last asked."""
        passed, self._passed = self._passed, []
        return passed

    def validate_sensors_for_partial_obs_hallways(self) -> None:
        """Nothing to check: this executor reads no sensors."""

    def _stand(self, pose: Pose) -> None:
        assert self.robot is not None
        self.robot.set_pose(pose)
        self._passed.append((pose.x, pose.y))
        if self.robot.manipulated_object is not None:
            self.robot.manipulated_object.set_pose(_between(pose, pose, 0.0))


def _between(before: Pose, after: Pose, share: float) -> Pose:
    # A pose of its own: those of a path belong to the planner's graph, which turns them later.
    x, y = before.x + share * (after.x - before.x), before.y + share * (after.y - before.y)
    return Pose(x=x, y=y, z=after.z, yaw=after.get_yaw())
