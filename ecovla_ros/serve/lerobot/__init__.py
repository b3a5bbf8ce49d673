"""LeRobot's asynchronous inference: its robot clients ask this package by gRPC, and nothing is unpickled."""
