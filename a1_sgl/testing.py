"""For tests of programs, gates and listeners of one's own: an engine without a model.

A draft that writes a line and a target that finds it strange and answers::

    >>> from a1_sgl.conformal import make
    >>> from a1_sgl.programs import a1
    >>> from a1_sgl.session import Backend, Roles
    >>> draft, target = FakeEngine("1 + 1 = 3\\n", name="small"), FakeEngine("\\\\boxed{2}", name="large", scores=-9.0)
    >>> gate = make("marginal", 0.5)
    >>> gate.calibrate(0.1, question="another")
    >>> with Backend(Roles.pair(draft, target)) as backend:
    ...     result = a1.run(question="1 + 1?", gate=gate, samples=3, backend=backend, stop=["\\n"]).ret_value
    >>> result.answer
    '2'
"""

from a1_sgl.engine.fake import FakeCall, FakeEngine, FakeTokenizer

__all__ = ["FakeCall", "FakeEngine", "FakeTokenizer"]
