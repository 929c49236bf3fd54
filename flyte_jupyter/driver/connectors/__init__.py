"""Jobs of external services: launched, watched, and never left behind.

Flyte's local executor polls every three seconds, whatever there is to see, and leaves a job running
when nobody waits for it any more. Here it is asked for often at first and then less, what it says
is shown while it runs, and it is deleted when its task is stopped, for whatever reason.
"""

KEEPER = "flyte_jupyter.driver.connectors.keeper_process"
"""What the process runs that deletes jobs which its driver cannot delete any more (`keeper.py`).

Who ends the rest of a cluster knows by that to spare it.
"""
