"""Names of rclpy that were others in Humble."""

from __future__ import annotations

try:
    from rclpy.event_handler import EventHandler, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import QoSEventHandler as EventHandler
    from rclpy.qos_event import SubscriptionEventCallbacks

__all__ = ["EventHandler", "SubscriptionEventCallbacks"]
