class SafetyIdentifierBankA:
    @staticmethod
    def items():
        return [("FOLLOWING_ERROR", 1), ("MAXIMUM_VELOCITY", 2), ("JOINT_LIMIT_HIGH", 4), ("WATCHDOG_TRIGGERED", 8)]
