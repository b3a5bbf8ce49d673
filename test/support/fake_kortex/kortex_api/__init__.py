"""A stand-in for Kinova's kortex_api 2.6: the same names, and behind them test/kortex_robot.py over loopback."""
