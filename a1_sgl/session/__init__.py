"""Programs' view of runtimes: the backend, a question's group, its chains, and what they are made of."""

from a1_sgl.launch.cpu_engine import enable

enable()  # before sglang is imported, so that it can be without a GPU

from a1_sgl.engine import aside  # noqa: E402
from a1_sgl.session.audits import AUDITS, audit, find_audit  # noqa: E402
from a1_sgl.session.chain import Chain  # noqa: E402
from a1_sgl.session.context import stoppable  # noqa: E402
from a1_sgl.session.frontend import Backend  # noqa: E402
from a1_sgl.session.group import Group, run_chains  # noqa: E402
from a1_sgl.session.query import Query  # noqa: E402
from a1_sgl.session.rating import RATES, find_rate, rate  # noqa: E402
from a1_sgl.session.roles import Role, Roles  # noqa: E402
from a1_sgl.session.scoring import Scored  # noqa: E402
from a1_sgl.session.transcript import Transcript  # noqa: E402

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
