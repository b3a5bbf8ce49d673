class BaseClient:
    def __init__(self, router):
        self._router = router

    def SetServoingMode(self, mode):
        self._router.call("SetServoingMode", mode=mode.servoing_mode)

    def SendJointSpeedsCommand(self, message, options=None):
        self._router.call("SendJointSpeedsCommand", options, speeds=[s.value for s in message.joint_speeds])

    def SendGripperCommand(self, message, options=None):
        self._router.call("SendGripperCommand", options, value=message.gripper.finger[0].value)

    def Stop(self, options=None):
        self._router.call("Stop", options)

    def ClearFaults(self, options=None):
        self._router.call("ClearFaults", options)
