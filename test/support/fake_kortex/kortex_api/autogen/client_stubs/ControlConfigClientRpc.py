class ControlConfigClient:
    def __init__(self, router):
        self._router = router

    def SetJointSpeedSoftLimits(self, message):
        self._router.call("SoftLimits", kind="speed", mode=message.control_mode, values=message.joint_speed_soft_limits)

    def SetJointAccelerationSoftLimits(self, message):
        self._router.call(
            "SoftLimits", kind="acceleration", mode=message.control_mode,
            values=message.joint_acceleration_soft_limits,
        )  # fmt: skip
