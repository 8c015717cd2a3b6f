"""What requests takes from the environment, for those who speak HTTP without it."""

from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy


def authorities(bundle: str | None) -> tuple[str | None, str | None]:
    """Give a file or a directory of certificate authorities, the other being None; certifi's file without a bundle."""
    path = bundle or DEFAULT_CA_BUNDLE_PATH
    return (None, path) if Path(path).is_dir() else (path, None)


def proxy_for(url: str) -> str | None:
    """Give the proxy that the variables name for a URL, if they name one."""
    return select_proxy(url, get_environ_proxies(url)) or None
