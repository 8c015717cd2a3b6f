"""The sets of codes that have a name."""

from collections.abc import Callable, Iterable
from itertools import product
from string import ascii_uppercase

POP20 = tuple(sorted("CN IN US ID BR PK NG BD RU JP MX PH VN ET EG DE IR TR CD FR".split()))
"""The twenty most populous countries, as the book has them."""

ALL = tuple(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
    CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR
    GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO
    JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR
    MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO
    RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV
    TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
    """.split()
)
"""Every officially assigned ISO 3166-1 alpha-2 code, 249 of them."""


def every() -> Iterable[str]:
    """AA to ZZ: 676 codes, most of which name no country."""
    return map("".join, product(ascii_uppercase, repeat=2))


def of_letter(letter: str) -> Iterable[str]:
    """XA to XZ for X, in upper case."""
    return (letter.upper() + second for second in ascii_uppercase)


NAMED: dict[str, Callable[[], Iterable[str]]] = {"POP20": lambda: POP20, "ALL": lambda: ALL, "EVERY": every}
GUESSED = frozenset({"EVERY"})
"""Sets of codes that need not exist, so that not finding one is no failure."""
