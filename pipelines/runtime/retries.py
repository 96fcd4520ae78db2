"""Retries of tasks and actors of Ray Data, whose own default is to retry without bound."""

TASK_RETRIES = 4
"""times that a task is tried again, or an actor restarted, after its process died: enough for lost nodes, which take
results with them that must be made again, and few enough that a batch on which every process dies ends the command"""
