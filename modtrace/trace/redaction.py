"""Secrets in command lines, replaced by `***` before anything is written or shown. Standard library only.

A secret is known by the name that it stands under (an option, a header, a key of JSON, a variable), by where it stands
(user info of a URL, behind `Bearer`) or by its shape (`hf_...`, `AKIA...`, a JSON web token). Where a name may mean
both, as in `--max-tokens 5`, words beside it decide.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any, Final

BLANK: Final = "***"

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_STRONG: Final = frozenset(
    {
        "password",
        "passwords",
        "passwd",
        "passwds",
        "pwd",
        "passphrase",
        "passphrases",
        "passcode",
        "secret",
        "secrets",
    }
    | {"credential", "credentials", "creds", "cookie", "cookies", "jwt", "dsn", "bearer", "authorization"}
    | {"authorisation", "apikey", "apikeys", "psk", "otp"}
)
"""A word of a name that makes it secret, whatever stands beside it."""
_RUN_TOGETHER: Final = re.compile(
    r"passw(?:or)?d|passphrase|secret|credential|authori[sz]ation|pwd$|jwt$|dsn$|"
    r"(?:api|auth|access|private|account|session|ssh|license|hf|hub|wandb|openai|app|bot|refresh)_?(?:key|token)s?$|"
    r"(?:db|user|usr|ssh|sql|root|admin|pg|smtp|ftp|http|proxy|login)pass$",
    re.IGNORECASE,
)
"""The same of words that nothing divides: `dbpassword`, `PGPASSWORD`, `sshpass`."""
_SIZES: Final = {
    "num",
    "n",
    "k",
    "m",
    "b",
    "max",
    "min",
    "per",
    "size",
    "count",
    "length",
    "len",
    "limit",
    "dim",
}
_KINDS: Final = {
    "image",
    "video",
    "audio",
    "text",
    "input",
    "output",
    "batch",
    "target",
    "prompt",
    "index",
    "type",
}
_WEAK: Final[dict[str, set[str]]] = {
    "token": _SIZES | _KINDS
    | {"pad", "eos", "bos", "unk", "mask", "sep", "cls", "special", "id", "ids", "types", "dropout", "loss", "budget"}
    | {"level", "mixing", "mixer", "merge", "merging", "pruning", "ratio", "new", "stop", "start", "end", "begin"}
    | {"first", "last", "next", "every", "drop", "embed", "embedding", "embeddings", "position", "classification"}
    | {"shift", "rate", "prob", "weight"},
    "tokens": _SIZES | _KINDS
    | {"new", "total", "special", "added", "add", "seq", "budget", "stop", "eos", "pad", "generated", "skip", "ignore"}
    | {"keep", "train", "training", "val", "eval", "warmup", "seen", "in", "out", "context", "predict", "cls"}
    | {"register", "virtual"},
    "key": _SIZES | _KINDS
    | {"bits", "head", "heads", "num", "value", "values", "query", "padding", "mask", "sort", "group", "primary"}
    | {"foreign", "column", "col", "label", "dataset", "metric", "monitor", "feature", "features", "cache", "norm"}
    | {"proj", "bias", "source", "caption", "map", "binding", "bindings", "state", "missing", "unexpected", "strict"},
    "pass": _SIZES
    | {"two", "one", "single", "forward", "backward", "first", "second", "third", "multi", "through", "thru", "each"}
    | {"low", "high", "band", "fail", "only", "by", "full", "last", "test", "filter"},
    "auth": {"type", "method", "mode", "scheme", "url", "uri", "host", "server", "provider", "enabled", "timeout"}
    | {"backend", "port", "no"},
}  # fmt: skip
"""Words that are secret unless one of these stands beside them."""
_ALSO: Final = {"keys": "key", "oauth": "auth"}
_FORCING: Final = (
    {"api", "access", "private", "secret", "auth", "hf", "hub", "huggingface", "github", "gitlab", "openai"}
    | {"anthropic", "wandb", "aws", "azure", "gcp", "ssh", "session", "refresh", "bot", "oauth"}
    | {"personal", "account", "service"}
)  # fmt: skip
"""Beside a word of _WEAK these make it secret all the same: `--aws-access-key-id`."""
_SEVERAL: Final = ("keys", "tokens", "passwords", "secrets", "credentials", "cookies", "passphrases", "creds")
_ONE, _MANY = "one", "many"
_SCHEMES: Final = ("bearer", "basic", "token", "digest", "apikey", "negotiate", "ntlm", "hawk", "key")

_USER_INFO: Final = re.compile(
    r"(\b[A-Za-z][A-Za-z0-9+.\-]*://)(?:[^\s/?#]*@|[^\s/:@?#]*:(?!\d+(?:[/?#]|$))[^\s@]*@)"
)
_BARE_USER_INFO: Final = re.compile(r"^[\w.+\-]+:(?!//)[^\s@:]+@(?=[A-Za-z][\w\-]*(?:[.:/]|$))(?!sha\d)")
_BEARER: Final = re.compile(r"\b(bearer)(\s+|%20|\+)[^\s\"',;]+", re.IGNORECASE)
_BASIC: Final = re.compile(r"\b((?i:basic))(\s+)(?=\S*[A-Z0-9=+/])(?=\S*[a-z])[A-Za-z0-9+/]{8,}={0,2}")
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY")
_SHAPES: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_(?=[A-Za-z]*\d|[A-Za-z0-9]{16})[A-Za-z0-9]{6,}|"
    r"(?:sk|pk|rk)[-_](?:live|test|proj|ant|or|svcacct|admin|lf)[-_][\w\-]{4,}|"
    r"sk-(?=[A-Za-z_\-]*\d|[\w\-]{16})[\w\-]{8,}|"
    r"gh[pousr]_[A-Za-z0-9]{6,}|github_pat_\w{6,}|(?:gl(?:pat|dt|rt|ptt|soat|cbt)|gldt)-[\w\-]{6,}|"
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{8,}|xox[a-z](?:-[\w\-]{4,}|\.[\w\-]+)|xapp-[\w\-]{6,}|"
    r"eyJ[\w\-]{5,}(?:\.[\w\-]*){1,4}|eyJ[\w\-]{20,}|AIza[\w\-]{16,}|ya29\.[\w\-]{6,}|"
    r"npm_[A-Za-z0-9]{16,}|pypi-[\w\-]{16,}|dckr_pat_[\w\-]{6,}|SG\.[\w\-]{8,}\.[\w\-]{8,}|gsk_[A-Za-z0-9]{16,}|"
    r"r8_[A-Za-z0-9]{16,}|nvapi-[\w\-]{16,}|lsv2_\w{16,}|tvly-[\w\-]{12,}|shp(?:at|ss|ca|pa)_[A-Za-z0-9]{16,}|"
    r"dop_v1_[a-f0-9]{16,}|hv[sb]\.[\w\-]{16,}|AGE-SECRET-KEY-[A-Z0-9]+)"
)
_NAMED: Final = re.compile(
    r"(?P<quote>\\?[\"']?)(?P<name>[A-Za-z][\w.\-]*)(?P=quote)(?P<sign>\s*(?:=>|:=|[=:])\s*)"
    r"(?P<value>\\?\"[^\"]*\"?|\\?'[^']*'?|[^\s,;&}\])]+)"
)
"""`name=value`, `name: value`, `"name": "value"` somewhere in a text."""
_HEADER: Final = re.compile(r"^(?P<name>[A-Za-z][\w\-]*)(?P<sign>\s*:\s+|:(?=[^/]))(?P<value>.+)$", re.DOTALL)
_OPTION: Final = re.compile(r"^(?P<dashes>--?|\+\+?|/|~)?(?P<name>[A-Za-z][\w.\-/@]*)$")


def blanked(argv: Sequence[str]) -> list[str]:
    """Arguments without the secrets in them: `--api-key=***`, `--token ***`, `postgres://***@host/`.

    Doing it again changes nothing.
    """
    shown: list[str] = []
    pending = ""
    strong = False
    for arg in argv:
        word = arg.encode("utf-8", "backslashreplace").decode()
        hidden = bool(pending) and (strong or not word.startswith("--" if pending == _ONE else "-"))
        if hidden and word in ("=", ":"):
            shown.append(word)
            continue
        shown.append(BLANK if hidden else scrubbed(word))
        if hidden and word.lower() in _SCHEMES:
            continue
        if not (hidden and pending == _MANY):
            pending = _follows(word)
        strong = _is_strong(word) if pending == _ONE or not hidden else False
    return shown


def _follows(word: str) -> str:
    """Number of the words behind an option are secret, by its name: none, one, or several."""
    if word.lower() == "bearer":
        return _ONE
    option = _OPTION.match(word.removesuffix(":"))
    if option is None or not is_secret(option["name"]):
        return ""
    if not option["dashes"] and not word.endswith(":"):
        return ""
    return _MANY if _words(option["name"])[-1] in _SEVERAL else _ONE


def _is_strong(word: str) -> bool:
    """True if what follows a name is a secret even where it looks like another option."""
    words = _words(word)
    return any(part in _STRONG or part == "pass" for part in words) or bool(
        _RUN_TOGETHER.search(word.strip("-:"))
    )


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def is_secret(name: str) -> bool:
    """True if the name of an option, a header or a key says that its value is a secret."""
    words = _words(name)
    together = name.rpartition(".")[2].strip("-_+~/")
    if any(word in _STRONG for word in words) or any(
        _RUN_TOGETHER.search(word) for word in (together, *words)
    ):
        return True
    for word in words:
        beside = _WEAK.get(_ALSO.get(word, word))
        if beside is None:
            continue
        others = set(words) - {word}
        if others & _FORCING or not others & beside:
            return True
    return False


def scrubbed(text: str) -> str:
    """One text without the secrets in it, going by the names, places and shapes inside."""
    if _PRIVATE_KEY.search(text):
        return BLANK
    name, equals, value = text.partition("=")
    option = _OPTION.match(name)
    if equals and option is not None:
        return f"{name}={BLANK}" if is_secret(option["name"]) else f"{name}={_inside(value)}"
    return _inside(text)


def _inside(text: str) -> str:
    structure = _structure(text)
    if structure is not None:
        return structure
    header = _HEADER.match(text)
    if header is not None and is_secret(header["name"]):
        return f"{header['name']}{header['sign']}{BLANK}"
    text = _USER_INFO.sub(rf"\g<1>{BLANK}@", text)
    text = _BARE_USER_INFO.sub(f"{BLANK}@", text)
    text = _BEARER.sub(rf"\g<1>\g<2>{BLANK}", text)
    text = _BASIC.sub(rf"\g<1>\g<2>{BLANK}", text)
    text = _NAMED.sub(_pair, text)
    return _SHAPES.sub(BLANK, text)


def _pair(match: re.Match[str]) -> str:
    if not is_secret(match["name"]):
        value = match["value"]
        inner = _NAMED.sub(_pair, value) if len(value) < len(match[0]) else value
        return match[0][: len(match[0]) - len(value)] + inner
    value = match["value"]
    mark = re.match(r"\\?[\"']", value)
    quote = mark[0] if mark else ""
    sign = match[0][: len(match[0]) - len(value)]
    return f"{sign}{quote}{BLANK}{quote}"


def _structure(text: str) -> str | None:
    """JSON, or the text of a dictionary or list of Python, with its secrets blanked; None for another text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    data: Any
    try:
        data, python = json.loads(text), False
    except (ValueError, RecursionError):
        try:
            data, python = ast.literal_eval(text.strip()), True
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    try:
        clean = _without(data)
        if clean == data:
            return text
        return repr(clean) if python else json.dumps(clean, ensure_ascii=False)
    except (RecursionError, ValueError, TypeError):
        return BLANK


def _without(data: Any) -> Any:
    if isinstance(data, dict):
        return {
            key: BLANK if isinstance(key, str) and is_secret(key) and value is not None else _without(value)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [_without(item) for item in data]
    return scrubbed(data) if isinstance(data, str) else data
