"""What looks outside the graph, or over all of it, on a clock.

Belongs here: schedules and sensors, one file each: a pure decision function, tested alone, and a
thin wrapper that gathers its input. Does not belong here: automation between assets
(`blyan_assets.automation`).
"""
