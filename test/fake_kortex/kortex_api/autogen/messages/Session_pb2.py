class CreateSessionInfo:
    pass
