"""Reads a report as any program could: an HTML parser, JSON, base64, zlib. Shares nothing with what writes it."""

from __future__ import annotations

import base64
import json
import zlib
from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements, attributes and the contents of scripts and styles."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.words, self._open = [], {}, [], None
        self.plain_scripts, self.styles = [], []
        self.feed(text)
        self.close()
        self.meta = json.loads(self.scripts["meta"]) if "meta" in self.scripts else None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs))

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        tag, attrs = self._open or ("", {})
        if tag == "script" and "id" in attrs:
            self.scripts[attrs["id"]] = self.scripts.get(attrs["id"], "") + data
        elif tag == "script":
            self.plain_scripts.append(data)
        elif tag == "style":
            self.styles.append(data)
        else:
            self.words.append(data)

    def raw(self, name):
        return zlib.decompress(base64.b64decode(self.scripts[f"blob-{name}"]), wbits=-15)

    def texts(self, name):
        return json.loads(self.raw(name))

    def columns(self, name):
        told, data, at, found = self.meta["blobs"][name], self.raw(name), 0, {}
        rows = told["rows"]
        for column, planes, signed in told["columns"]:
            values = [0] * rows
            for plane in range(planes):
                for row in range(rows):
                    values[row] += data[at + row] << (8 * plane)
                at += rows
            found[column] = (
                [-(v + 1) // 2 if v % 2 else v // 2 for v in values] if signed else [v - 1 for v in values]
            )
        assert at == len(data)
        return found

    def calls(self):
        """(process, step) -> [(name, thread, start_ns, duration_ns, status), ...]."""
        tree, paths, names, steps = (
            self.columns("tree"),
            self.columns("paths"),
            self.texts("names"),
            self.columns("details"),
        )
        chunks = {}
        found = {}
        for process, step, start, chunk, offset, count in zip(
            *(steps[k] for k in ("process", "step", "start_ns", "chunk", "offset", "calls")), strict=True
        ):
            rows = chunks.setdefault(chunk, None) or self.columns(f"calls-{chunk}")
            chunks[chunk] = rows
            told, ends, thread = [], {}, None
            for row in range(offset, offset + count):
                if rows["thread"][row] != thread:
                    thread, ends = rows["thread"][row], {}
                depth = tree["depth"][paths["node"][rows["path"][row]]]
                begin = ends.get(depth, start) + rows["gap_ns"][row]
                ends = {level: end for level, end in ends.items() if level < depth}
                ends |= {depth: begin + max(rows["duration_ns"][row], 0), depth + 1: begin}
                told.append(
                    (
                        names[paths["name"][rows["path"][row]]],
                        thread,
                        begin,
                        rows["duration_ns"][row],
                        rows["status"][row],
                    )
                )
            found[process, step] = told
        return found
