"""Expressions as minimal automata over bytes, and these as automata over the tokens of a vocabulary.

``bytes.build`` makes the first (``nfa``, ``dfa``), ``tokens.build`` the second (``vocabulary``, ``chain``). ``limits``
bounds what either may take; ``stop_strings`` and ``preamble`` change the texts of an automaton that is there.
"""

from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.chain import Chain
from redraft.constrain.automaton.limits import Limits, TokenLimits
from redraft.constrain.automaton.tokens import TokenAutomaton
from redraft.constrain.automaton.vocabulary import Vocabulary

__all__ = ["ByteAutomaton", "Chain", "Limits", "TokenAutomaton", "TokenLimits", "Vocabulary"]
