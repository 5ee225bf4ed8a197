"""Programs' view of runtimes: the backend, a question's group, its chains, and what they are made of."""

from typing import TYPE_CHECKING

from a1_sgl.engine import aside
from a1_sgl.launch.cpu_engine import enable
from a1_sgl.lazy import lazy
from a1_sgl.session.audits import AUDITS, audit, find_audit
from a1_sgl.session.context import stoppable
from a1_sgl.session.query import Query
from a1_sgl.session.rating import RATES, find_rate, rate
from a1_sgl.session.roles import Role, Roles
from a1_sgl.session.scoring import Scored
from a1_sgl.session.transcript import Transcript

if TYPE_CHECKING:
    from a1_sgl.session.chain import Chain
    from a1_sgl.session.frontend import Backend
    from a1_sgl.session.group import Group, run_chains

enable()  # before sglang is imported, so that it can be without a GPU
lazy(__name__, {"Backend": "frontend", "Chain": "chain", "Group": "group", "run_chains": "group"})  # they need sglang

__all__ = [
    "AUDITS",
    "RATES",
    "Backend",
    "Chain",
    "Group",
    "Query",
    "Role",
    "Roles",
    "Scored",
    "Transcript",
    "aside",
    "audit",
    "find_audit",
    "find_rate",
    "rate",
    "run_chains",
    "stoppable",
]
