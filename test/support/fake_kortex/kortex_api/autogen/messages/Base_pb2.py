from types import SimpleNamespace

SINGLE_LEVEL_SERVOING, GRIPPER_POSITION, ARMSTATE_IN_FAULT = 2, 3, 4


class _Repeated(list):
    def add(self):
        self.append(SimpleNamespace())
        return self[-1]


class ServoingModeInformation:
    pass


class JointSpeeds:
    def __init__(self):
        self.joint_speeds = _Repeated()


class GripperCommand:
    def __init__(self):
        self.gripper = SimpleNamespace(finger=_Repeated())
