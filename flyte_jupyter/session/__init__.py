"""The one owner of environments, clusters and runs."""

from flyte_jupyter.session.refs import Ref
from flyte_jupyter.session.runs import CellTask, Run
from flyte_jupyter.session.session import Session, session, set_session

__all__ = ["CellTask", "Ref", "Run", "Session", "session", "set_session"]
