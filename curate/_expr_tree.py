"""Reads the text of a clause into a small tree of allowed nodes; everything that is not listed here is refused.

DuckDB's own parser (`json_serialize_sql`) does the reading, so precedence and spelling are SQL's. The text is parsed
twice, bare and inside brackets, and both times the statement around the one expression has to be exactly that of
`SELECT (1)`: a second statement, a FROM, a UNION, an ORDER BY or a comment that eats the bracket cannot hide.
Then each node is translated by allow-list. Nothing of the user's text is ever handed to DuckDB for running:
`_expr_bind` writes new SQL from this tree, with column names replaced by c0, c1, ….
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from headwater.errors import UsageError, nearest

MAX_TEXT_BYTES = 16_384
MAX_DEPTH = 100

# name -> (argument letters, result). n number, i integer, t text, l list, a anything; after "?" optional.
# Pure functions of their arguments only: no clock, randomness, settings, files, network or state.
FUNCTIONS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("floor", "ceil", "ceiling", "sqrt", "cbrt", "ln", "log2", "log10", "exp"), ("n", "f64")),
    **dict.fromkeys(("round", "trunc"), ("n?i", "f64")),
    **dict.fromkeys(("pow", "power"), ("nn", "f64")),
    "log": ("n?n", "f64"),
    **dict.fromkeys(("isnan", "isinf", "isfinite"), ("n", "bool")),
    **dict.fromkeys(("lower", "upper", "lcase", "ucase", "reverse", "strip_accents"), ("t", "text")),
    **dict.fromkeys(("trim", "ltrim", "rtrim"), ("t?t", "text")),
    **dict.fromkeys(("strlen", "char_length", "character_length"), ("t", "int")),
    **dict.fromkeys(("instr", "position", "strpos"), ("tt", "int")),
    **dict.fromkeys(("contains", "starts_with", "ends_with", "prefix", "suffix"), ("tt", "bool")),
    **dict.fromkeys(("~~", "!~~", "~~*", "!~~*", "~~~"), ("tt", "bool")),
    **dict.fromkeys(("like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape"), ("ttt", "bool")),
    **dict.fromkeys(("regexp_matches", "regexp_full_match"), ("tt?t", "bool")),
    "regexp_extract": ("tt?i", "text"),
    **dict.fromkeys(("substr", "substring"), ("ti?i", "text")),
    **dict.fromkeys(("left", "right"), ("ti", "text")),
    "replace": ("ttt", "text"),
    "||": ("tt", "text"),
    "length": ("a", "int"),
    "len": ("a", "int"),
    "array_length": ("l", "int"),
    "list_contains": ("la", "bool"),
}
ARITHMETIC = {"+", "-", "*", "/", "//", "%"}
SPECIAL = {
    "least": (1, 64),
    "greatest": (1, 64),
    "concat": (1, 64),
    "abs": (1, 1),
    "nullif": (2, 2),
    "if": (3, 3),
}
COMPARISONS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "<>",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_DISTINCT_FROM": "IS DISTINCT FROM",
    "COMPARE_NOT_DISTINCT_FROM": "IS NOT DISTINCT FROM",
}
_INTEGERS = {
    "TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "INT": 32, "BIGINT": 64, "LONG": 64, "INT1": 8, "INT2": 16, "INT4": 32,
    "INT8": 64, "UTINYINT": -8, "USMALLINT": -16, "UINTEGER": -32, "UBIGINT": -64,
}  # fmt: skip
# spelling -> (SQL type written out, kind, bits of an integer or 0; negative bits are unsigned)
CASTS: dict[str, tuple[str, str, int]] = {
    **{name: (name, "int", bits) for name, bits in _INTEGERS.items()},
    **dict.fromkeys(("DOUBLE", "FLOAT8"), ("DOUBLE", "f64", 0)),
    **dict.fromkeys(("FLOAT", "REAL", "FLOAT4"), ("FLOAT", "f32", 0)),
    **dict.fromkeys(("VARCHAR", "TEXT", "STRING"), ("VARCHAR", "text", 0)),
    **dict.fromkeys(("BOOLEAN", "BOOL", "LOGICAL"), ("BOOLEAN", "bool", 0)),
    "DATE": ("DATE", "other", 0),
    "TIMESTAMP": ("TIMESTAMP", "other", 0),
}
NAMED_FUNCTIONS = sorted(
    {name for name in FUNCTIONS if name.isidentifier()} | SPECIAL.keys() | {"coalesce", "ifnull"}
)
_OPERATORS = {"OPERATOR_IS_NULL": "isnull", "OPERATOR_IS_NOT_NULL": "notnull", "OPERATOR_NOT": "not",
              "OPERATOR_COALESCE": "coalesce", "COMPARE_IN": "in"}  # fmt: skip
_REFUSED = {
    "SUBQUERY": "a subquery", "WINDOW": "a window function", "LAMBDA": "a lambda", "PARAMETER": "a parameter",
    "STAR": "*", "COLLATE": "COLLATE", "POSITIONAL_REFERENCE": "a positional reference", "DEFAULT": "DEFAULT",
}  # fmt: skip

Literal = int | float | str | bool | None


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """`op` is col, lit, cmp, and, or, not, isnull, notnull, in, between, coalesce, case, cast or fn."""

    op: str
    args: tuple[Node, ...] = ()
    value: Any = None


class Reader:
    """One clause being read: `clause` and `text` are for the messages only."""

    def __init__(self, clause: str, text: str) -> None:
        self.clause, self.text = clause, text
        self.columns: set[str] = set()

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        raise UsageError(f"clause {self.clause!r}: {message}", hint=hint)

    def read(self, serialize: Any) -> Node:
        """`serialize(sql)` returns DuckDB's JSON for a statement."""
        if not self.text.strip():
            self.fail("the expression is empty", "write a condition over columns, such as score >= 0.3")
        try:
            size_bytes = len(self.text.encode("utf-8"))
        except UnicodeEncodeError:
            self.fail("the expression holds a lone surrogate, which is not text")
        if size_bytes > MAX_TEXT_BYTES:
            self.fail(
                f"the expression has {size_bytes} bytes; the limit is {MAX_TEXT_BYTES}",
                "split it into clauses",
            )
        if "\0" in self.text:
            self.fail("the expression holds a NUL byte")
        try:
            frame, _ = self._statement(serialize, "SELECT (1\n)")
            for sql in (f"SELECT {self.text}\n", f"SELECT ({self.text}\n)"):
                around, expression = self._statement(serialize, sql)
                if around != frame:
                    self.fail(
                        f"{_short(self.text)} is more than one expression",
                        "one condition, no statement around it",
                    )
            return self.node(expression, 0)
        except RecursionError:
            self.fail("the expression is nested too deeply", "split it into several clauses")

    def _statement(self, serialize: Any, sql: str) -> tuple[Any, Any]:
        answer = json.loads(serialize(sql))
        if answer.get("error"):
            self.fail(
                f"cannot read {_short(self.text)}: {answer.get('error_message')}",
                "one SQL condition over columns",
            )
        statements = answer["statements"]
        columns = statements[0]["node"].pop("select_list", None) if len(statements) == 1 else None
        if not columns or len(columns) != 1 or columns[0].get("alias"):
            self.fail(f"{_short(self.text)} is not one expression", "join conditions with and, or")
        statements[0].pop("named_param_map", None)  # a parameter is refused by name below
        return answer, columns[0]

    def node(self, ast: dict[str, Any], depth: int) -> Node:
        if depth > MAX_DEPTH:
            self.fail(f"the expression is nested more than {MAX_DEPTH} deep", "split it into several clauses")

        def at(child: dict[str, Any]) -> Node:
            return self.node(child, depth + 1)

        kind, op = ast["class"], ast["type"]
        if ast.get("alias"):
            self.fail(
                f"the name {ast['alias']!r} is given to a part of the expression", "leave the alias out"
            )
        match kind:
            case "COLUMN_REF":
                path = ast["column_names"]
                if len(path) != 1:
                    dotted = ".".join(path)
                    self.fail(
                        f"{dotted!r} names a field or a table", f'write "{dotted}" for a column of that name'
                    )
                self.columns.add(path[0])
                return Node("col", (), path[0])
            case "CONSTANT":
                return Node("lit", (), self._literal(ast["literal"]))
            case "CONJUNCTION" if op in ("CONJUNCTION_AND", "CONJUNCTION_OR"):
                return Node("and" if op == "CONJUNCTION_AND" else "or", tuple(map(at, ast["children"])))
            case "COMPARISON" if op in COMPARISONS:
                return Node("cmp", (at(ast["left"]), at(ast["right"])), COMPARISONS[op])
            case "BETWEEN" if op == "COMPARE_BETWEEN":
                return Node("between", (at(ast["input"]), at(ast["lower"]), at(ast["upper"])))
            case "OPERATOR" if op in _OPERATORS:
                return Node(_OPERATORS[op], tuple(map(at, ast["children"])))
            case "CASE" if op == "CASE_EXPR":
                arms = [at(c[part]) for c in ast["case_checks"] for part in ("when_expr", "then_expr")]
                return Node("case", (*arms, at(ast["else_expr"])))
            case "CAST" if op == "OPERATOR_CAST":
                return Node(
                    "cast", (at(ast["child"]),), (self._cast_target(ast["type_expr"]), bool(ast["try_cast"]))
                )
            case "FUNCTION" if op == "FUNCTION":
                return self._function(ast, at)
        what = _REFUSED.get(kind, op.lower().replace("_", " "))
        return self.fail(
            f"{what} is not allowed in an expression", "use columns, literals, operators and plain functions"
        )

    def _literal(self, literal: dict[str, str]) -> Literal:
        kind, text = literal["kind"], literal["text"]
        match kind:
            case "NULL_LITERAL":
                return None
            case "BOOLEAN":
                return text == "true"
            case "STRING":
                return text
            case "INTEGER" if len(digits := text.replace("_", "")) <= 37:
                return int(digits)
            case "INTEGER" | "NUMERIC":
                return float(text.replace("_", ""))
        return self.fail(
            f"the literal {_short(text)} is of a kind that is not allowed",
            "numbers, 'text', true, false, null",
        )

    def _cast_target(self, ast: dict[str, Any]) -> tuple[str, str, int]:
        name = str(ast.get("type_name", "")).upper()
        if (
            ast.get("class") != "TYPE"
            or ast.get("children")
            or ast["qualified_name"]["path"] != [ast["type_name"]]
        ):
            self.fail(
                f"a cast to {name.lower() or 'that type'} with arguments is not allowed", "use a plain type"
            )
        if name not in CASTS:
            self.fail(
                f"a cast to {name.lower()!r} is not allowed",
                nearest(name.lower(), [c.lower() for c in CASTS]),
            )
        return CASTS[name]

    def _function(self, ast: dict[str, Any], at: Any) -> Node:
        name = str(ast["function_name"]).lower()
        if (
            name not in FUNCTIONS
            and name not in ARITHMETIC
            and name not in SPECIAL
            and name not in ("^", "**")
        ):
            self.fail(
                f"the function {name!r} is not allowed in an expression", nearest(name, NAMED_FUNCTIONS)
            )
        plain = not (
            ast["schema"] or ast["catalog"] or ast["filter"] or ast["distinct"] or ast["export_state"]
        )
        if (
            not plain
            or ast["order_bys"].get("orders")
            or ast["qualified_name"]["path"] != [ast["function_name"]]
        ):
            self.fail(
                f"{name}() takes no schema, FILTER, DISTINCT or ORDER BY here", f"write {name}(…) plainly"
            )
        if any(argument["name"] for argument in ast["arguments"]):
            self.fail(f"{name}() is called with a named argument", "give the arguments by position")
        args = tuple(at(argument["expression"]) for argument in ast["arguments"])
        if name in ("^", "**"):
            name = "pow"
        if name in SPECIAL:
            low, high = SPECIAL[name]
        elif name in ARITHMETIC:
            low, high = (1 if name in "+-" else 2), 2
        else:
            letters, _, optional = FUNCTIONS[name][0].partition("?")
            low, high = len(letters), len(letters) + len(optional)
        if not low <= len(args) <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            self.fail(f"{name}() got {len(args)} arguments and takes {wanted}")
        if name == "nullif":
            return Node("case", (Node("cmp", args, "="), Node("lit"), args[0]))
        if name == "if":
            return Node("case", args)
        if name in "+-" and len(args) == 1:
            return args[0] if name == "+" else _negated(args[0])
        return Node("fn", args, name)


def _negated(node: Node) -> Node:
    if node.op == "lit" and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return Node("lit", (), -node.value)
    return Node("fn", (node,), "neg")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
