"""The one owner of environments, clusters and runs."""

from flyte_jupyter.sessions.refs import Ref
from flyte_jupyter.sessions.runs import CellTask, Run
from flyte_jupyter.sessions.session import Session, session, set_session

__all__ = ["CellTask", "Ref", "Run", "Session", "session", "set_session"]
