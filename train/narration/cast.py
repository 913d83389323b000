"""The cast: twenty teams of eleven and a bench of five. All names are invented; no club or person is meant."""

from typing import NamedTuple


class Team(NamedTuple):
    """A team with its article, its eleven (keeper, four defenders, three midfielders, three forwards) and bench."""

    article: str
    name: str
    eleven: tuple[str, ...]
    bench: tuple[str, ...]


def _team(named: str, eleven: str, bench: str) -> Team:
    article, name = named.split()
    return Team(article, name, tuple(eleven.split()), tuple(bench.split()))


TEAMS = (
    _team(
        "o Trovão",
        "Heldão Silgério Diorano Norilécio Manilan Dorizinho Jacenei Flarano Arivaz Julimar Orisino",
        "Deltino Jovelito Jarimar Irisino Daltião",
    ),
    _team(
        "a Maré",
        "Rivalmar Vagmir Valvaz Leodro Galnei Olizinho Moanor Ivalécio Arilico Perdro Helberto",
        "Jarizinho Clalécio Antozinho Naidino Julicino",
    ),
    _team(
        "o Farol",
        "Norigério Adeson Zoriberto Bentino Flolito Irizinho Hermar Erodino Alcilico Galvaz Xancino",
        "Quivino Arnorico Orison Ivareno Randino",
    ),
    _team(
        "a Ventania",
        "Viririco Loritino Amadro Arnorano Oditino Salareno Adedro Eliquinho Dorirano Hervaz Norimir",
        "Clavino Xandomo Teoberto Ivavaldo Abelvaz",
    ),
    _team(
        "o Jacarandá",
        "Zelilan Lintião Daldão Amalécio Alcison Raizinho Darnildo Quisino Xantião Toninildo Tibuvaldo",
        "Marsino Zoridro Talmar Valtião Orireno",
    ),
    _team(
        "a Garoa",
        "Arimilton Olidro Yuritino Clecino Clacino Hercino Evagério Jovetião Arnodro Joadro Ruinildo",
        "Vagmar Milanei Leorano Zelizinho Quireno",
    ),
    _team(
        "o Girassol",
        "Ruidomo Vanicino Ulidino Arnomir Wildão Evareno Odizinho Marlécio Clelito Hervaldo Milalécio",
        "Ubilan Vagsino Luireno Railan Antolito",
    ),
    _team(
        "a Neblina",
        "Balcino Rivalnor Tibudomo Sildomo Otilico Naigério Dardão Cladão Linsino Renaberto Zoritino",
        "Ruilécio Arizinho Granildo Iritino Serizinho",
    ),
    _team(
        "o Vagalume",
        "Helvaz Vaninor Marmar Serivino Antonildo Noriberto Dorilan Clavaldo Otirano Laumir Walvino",
        "Manidro Ubilito Teolan Tonirico Cletião",
    ),
    _team(
        "a Jangada",
        "Jovemir Benson Launei Leotino Brison Vilgério Salamir Teonor Clelan Tibutino Galtião",
        "Platino Odinei Vanitião Xanson Ilalito",
    ),
    _team(
        "o Mandacaru",
        "Otinildo Plavino Darnor Maninei Silberto Flonei Dorisino Eroberto Walmar Gerdro Leovaz",
        "Nelvaldo Moadão Talmir Ilatião Olilito",
    ),
    _team(
        "a Araponga",
        "Milaberto Tonidino Rosisino Moadino Zoririco Darmilton Yuriberto Nelvaz Quimilton Jadirano Vanisino",
        "Evalico Oriquinho Diogério Plalécio Ruivaldo",
    ),
    _team(
        "o Boitatá",
        "Perdomo Serinor Vagson Ruireno Ilareno Xandino Yuricino Clesino Rosirano Vanison Jovedino",
        "Vilvaldo Nailico Milatino Olivaldo Renadino",
    ),
    _team(
        "a Caravela",
        "Olidomo Salalico Arnogério Moareno Zandão Palvino Flosino Atildino Lorilico Ilasino Herlico",
        "Jacelico Raison Gervaldo Aderano Silnor",
    ),
    _team(
        "o Granito",
        "Flamar Norilan Raivaldo Valnor Moason Delberto Tibucino Palnor Flodomo Walnei Diocino",
        "Alcidro Laumilton Loricino Ulimilton Joagério",
    ),
    _team(
        "a Bússola",
        "Teomilton Milagério Gilnildo Otidão Emagério Aritião Evalito Diorico Palvaz Laureno Taldão",
        "Tibunildo Odicino Dalnildo Amanor Balson",
    ),
    _team(
        "o Cometa",
        "Erorico Virilico Balnei Jarinildo Ilavaldo Galvino Adevino Emacino Luivino Jovegério Julitião",
        "Gerquinho Flovaldo Pernildo Amalan Diodino",
    ),
    _team(
        "a Locomotiva",
        "Ubiberto Pernor Serigério Zorimir Valvaldo Naidão Atildomo Quilito Manilico Belberto Oridino",
        "Jarinei Paldomo Virimar Antomar Vildro",
    ),
    _team(
        "o Tucunaré",
        "Loridomo Elirano Brimir Emadão Wilnor Manitião Jacelito Ivadro Tonireno Tarlécio Ubiquinho",
        "Helsino Permir Linquinho Mardomo Teoval",
    ),
    _team(
        "a Tempestade",
        "Belvino Tonivaz Renanei Julivino Flarico Dalmilton Jarivaz Vilnei Abelmir Odireno Adenor",
        "Pladão Seridino Rosireno Ivanei Elidomo",
    ),
)

TEAM_OF = {player: index for index, team in enumerate(TEAMS) for player in (*team.eleven, *team.bench)}
