ANGULAR_JOYSTICK = 1


class JointSpeedSoftLimits:
    def __init__(self):
        self.joint_speed_soft_limits = []


class JointAccelerationSoftLimits:
    def __init__(self):
        self.joint_acceleration_soft_limits = []
