"""What people look at: the HTML report, the Foxglove layout, rerun recordings, and the figures about bags."""
