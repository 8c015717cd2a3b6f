"""The pictures of a page: a card for each file, and the files that changed, before and now side by side."""

from collections.abc import Callable, Sequence

from job.display import size_text
from job.manifest import Change
from job.model import Result, Stored, Summary
from job.report.collector import Card, ChangedFile, Collector
from job.report.pictures import MAX_PICTURE_BYTES, MAX_PICTURES_BYTES, data_url

Clean = Callable[[str], str]
"""Masks secrets in a text and escapes what cannot be seen in it."""
View = dict[str, object]

_LABELS = {
    "new": "new",
    "changed": "changed",
    "ok": "downloaded",
    "unchanged": "unchanged",
    "gone": "gone",
    "not_found": "not found",
    "error": "failed",
    "cancelled": "cancelled",
}
"""What a card is marked with, in the order of the filters."""
_CHANGE_LABELS = {Change.NEW: "New", Change.CHANGED: "Changed", Change.GONE: "Gone from the origin"}
_MOST_CARDS = 600
_MOST_CODES = 60


def gallery_view(collector: Collector, clean: Clean, *, readable: bool) -> View | None:
    """Return the cards of files that are pictures, and of items without a file; None if there is no picture.

    `readable` says whether files can be read back, which are those of directories.
    """
    found = [card for card in [*collector.came, *collector.stayed] if card.picture or card.is_omitted]
    if not found:
        return None
    cards = [*found, *collector.failed][:_MOST_CARDS]
    marks = [_mark(card) for card in cards]
    labels = {mark: label for mark, label in _LABELS.items() if mark in marks}
    filters = [{"mark": mark, "label": label, "count": marks.count(mark)} for mark, label in labels.items()]
    ordered = sorted(cards, key=lambda card: card.result.code)
    return {
        "filters": [{"mark": "", "label": "All", "count": len(cards)}, *filters],
        "cards": [_card_view(card, clean, readable=readable) for card in ordered],
        "note": _note(collector, found, readable=readable),
    }


def _mark(card: Card) -> str:
    if card.change in {Change.NEW, Change.CHANGED, Change.GONE}:
        return str(card.change)
    return str(card.result.status)


def _card_view(card: Card, clean: Clean, *, readable: bool) -> View:
    result = card.result
    mark = _mark(card)
    code = clean(result.code)
    file = clean(card.stored.path) if card.stored else ""
    no_picture = "too large to embed" if readable else "in the bucket"
    return {
        "mark": mark,
        "label": _LABELS[mark],
        "code": code,
        "key": f"{code} {file}".lower(),
        "facts": " · ".join(filter(None, [*_file_facts(card.stored, clean), *_result_facts(result, clean)])),
        "picture": data_url(card.picture) if card.picture else None,
        "note": no_picture if card.stored else result.reason or _LABELS[mark],
    }


def _file_facts(stored: Stored | None, clean: Clean) -> list[str]:
    if stored is None:
        return []
    media_type = clean(stored.content_type or "")
    return [clean(stored.path), size_text(stored.bytes), media_type, f"sha256 {stored.sha256[:12]}"]


def _result_facts(result: Result, clean: Clean) -> list[str]:
    facts = [clean(result.error or "")]
    if result.attempts:
        facts += [counted(result.attempts, "try", "tries"), f"{result.duration_seconds:.3f} s"]
    return facts


def _note(collector: Collector, found: Sequence[Card], *, readable: bool) -> str:
    """Return what of the pictures is not in the page, if anything is not."""
    embedded = sum(1 for card in found if card.picture)
    stored = collector.stored
    if not readable:
        return f"The {counted(stored, 'file')} lie in a bucket, from which no picture is read back."
    if embedded == stored:
        return ""
    limits = f"up to {MAX_PICTURE_BYTES // 1024} KiB each and {MAX_PICTURES_BYTES // 1024} KiB together"
    return f"{counted(embedded, 'picture')} of {counted(stored, 'file')} are embedded, {limits}."


def changes_view(summary: Summary, collector: Collector, clean: Clean) -> list[View] | None:
    """Return the files that are new, changed and gone; None if there are none, or nothing is known of them."""
    counts = summary.changes
    if not any(counts.values()):
        return None
    now = {card.result.code: card.picture for card in collector.came if card.picture}
    kinds = collector.changes.items()
    return [_change_view(change, counts.get(change, 0), files, (now, clean)) for change, files in kinds]


def _change_view(
    change: Change, count: int, changed: Sequence[ChangedFile], shown: tuple[dict[str, bytes], Clean]
) -> View:
    now, clean = shown
    pairs = [
        {
            "code": clean(file.code),
            "old": data_url(file.old_picture),
            "new": data_url(now[file.code]) if file.code in now else None,
        }
        for file in changed
        if file.old_picture
    ]
    others = [clean(file.code) for file in changed if not file.old_picture]
    more = count - len(pairs) - len(others[:_MOST_CODES])
    return {
        "kind": change,
        "label": _CHANGE_LABELS[change],
        "count": f"{count:,}",
        "pairs": pairs,
        "files": others[:_MOST_CODES],
        "more": f"{more:,}" if more else "",
    }


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
