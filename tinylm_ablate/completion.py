"""Shell completion: Hydra completes settings; this module adds verbs and ``python -m tinylm_ablate``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from tinylm_ablate.arguments import MULTIRUN, VERBS
from tinylm_ablate.errors import ConfigError

#: For bash, and for zsh after ``bashcompinit``; other uses of python complete as before.
SCRIPT = """\
_tinylm_ablate() {
    local words=($COMP_LINE) start=tinylm-ablate
    if [ "${words[0]}" != tinylm-ablate ]; then
        [ "${words[1]} ${words[2]}" = "-m tinylm_ablate" ] || return
        start="${words[0]} -m tinylm_ablate"
    fi
    local found=$(COMP_LINE="$COMP_LINE" COMP_POINT=$COMP_POINT $start -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -o nospace -o default -W "$found" -- "${COMP_LINE##* }"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _tinylm_ablate tinylm-ablate python python3
"""


def completes(arguments: Sequence[str]) -> bool:
    """Return whether the arguments request completion; prints our own part of it.

    Removes from the line what Hydra does not know before Hydra answers: the verb, ``-m`` and the name of the program.

    Raises:
        ConfigError: No shell is named.
    """
    if not {"-sc", "--shell-completion"} & set(arguments):
        return False
    if not any(re.fullmatch(r"(install|uninstall|query)=(bash|fish|zsh)", text) for text in arguments):
        raise ConfigError([f"{' '.join(arguments)}: allowed: -sc install=bash, -sc install=fish"])
    if "install=bash" in arguments:
        print(SCRIPT, end="")
        return True
    if "query=bash" in arguments:
        line = os.environ.get("COMP_LINE", "")
        words = line.split(" ")
        words = words[3:] if words[1:3] == ["-m", "tinylm_ablate"] else words[1:]
        if len(words) == 1 and "=" not in words[0]:
            print("\n".join(verb for verb in VERBS if verb.startswith(words[0])))
        if len(words) > 1 and words[0] in VERBS:
            words = words[1:]
        if words and "+experiments=".startswith(words[-1]):
            print("+experiments=")
        line = " ".join(["tinylm-ablate", *(word for word in words if word not in MULTIRUN)])
        os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    return False
