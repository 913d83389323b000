"""How replies are worded: a text as the patterns see it, and the patterns.

They see no case and no accents, players as @name, teams as $name, a name that nobody has as @_, numbers in figures.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from train.narration import answers, questions
from train.narration.cast import TEAM_OF, TEAMS
from train.narration.grammar import NUMBERS
from train.narration.match import FINE, SKY, WEATHER
from train.narration.patterns import PATTERNS

# --- the words ------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """The text without case and accents."""
    return "".join(char for char in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(char))


PLAYERS = {plain(name): name for name in TEAM_OF}
TEAM_NAMES = {plain(team.name): index for index, team in enumerate(TEAMS)}
NOBODY = "_"
MOST_DIGITS = 4

_COMMON = """
    a ao aos as até com como contra da das de dele dela do dos e ela elas ele eles em entre era eram essa esse esta
    este foi foram há isso isto já mais mas me meu minha muito na nada nas nem no nos nossa nosso o os ou para pela pelo
    pois por porque quando quanto que quem se sem ser seu só sua também tem ter tudo um uma vai você vocês eu nós nunca
    sempre agora ainda antes depois hoje ontem aqui ali lá então assim logo bem mal bom boa sim não talvez acho creio
    parece certamente provavelmente segundo conforme ninguém nenhum nenhuma alguém houve teve tivemos está estava estão
    fez marcou levou recebeu tomou fizeram saiu entrou chutou defendeu sofreu cometeu roubou ganhou ganha vence venceu
    perde empate empatado gol golaço gols cartão cartões falta faltas escanteio lateral pênalti chute defesa expulso
    placar jogo partida bola posse tempo minuto minutos céu chuva chove chovendo calor frio sol vento árbitro juiz
    técnico torcida time times estádio trecho texto passagem narração desculpe desculpa olha gente claro certeza verdade
    vamos voltar prefiro posso quero devo sei sabe sabemos dá difícil impossível primeiro último única único logo apenas
    zero um dois três quatro cinco seis sete oito nove dez onze doze treze quatorze quinze vinte trinta quarenta mil
    que haja bom boa depende veremos futebol sinto lamento obrigado infelizmente eis autor dono atual atualmente
    deus senhor senhora senhores viva brasil
"""


def _letters(text: str) -> set[str]:
    return {plain(word) for word in re.findall(r"[^\W\d_]+", text)}


def _wordings(module: Any) -> list[str]:
    return [str(value) for name, value in vars(module).items() if name.isupper() and isinstance(value, str | dict)]


# Any other word with a capital is taken for somebody's name.
_VALUES = [*SKY.values, *FINE.values, *answers.SHIRTS, *(kind for table in WEATHER.values() for kind in table.values)]
LEXICON = _letters(_COMMON).union(
    *map(_letters, (*PATTERNS.values(), *_VALUES, *_wordings(answers), *_wordings(questions)))
)
_ONES = {plain(word): value for value, word in enumerate(NUMBERS) if value != 1}
_ONES |= {"duas": 2, "catorze": 14, "dezesseis": 16, "dezessete": 17, "dezoito": 18, "dezenove": 19, "mil": 1000}
_TENS = {"vinte": 20, "trinta": 30, "quarenta": 40, "cinquenta": 50}


def tagged(text: str) -> str:
    """The text as the patterns read it: players and teams marked, numbers in figures (but for um and uma)."""
    pieces = re.findall(r"[^\W\d_]+|\d+|\s+|.", unicodedata.normalize("NFC", text), re.DOTALL)
    tags = [_tag(piece) for piece in pieces]
    # A name ends where its letters do, whatever stands right after it: Farol18, Farol_x.
    apart = (
        f"{tag} " if tag[0] in "@$" and re.match(r"\w", after) else tag
        for tag, after in zip(tags, [*tags, ""][1:], strict=True)
    )
    found = re.sub(r"[^\S\n]+", " ", "".join(apart)).replace(" ,", ",")
    found = re.sub(r"\bgo{2,}l", "gol", found)
    found = re.sub(rf"\b({'|'.join(_TENS)})(?: e (uma?|\d))?\b", _tens, found)
    found = re.sub(r"(\d) ?[x×-] ?(?=\d)", r"\1 a ", found)
    return re.sub(r"(@\w+),? d[oa] (?=\$)", r"\1 of ", found)


def _tag(piece: str) -> str:
    if piece in "@$|":
        return " "  # they mean something here
    if not piece[0].isalpha():
        return piece[:MOST_DIGITS]
    word = plain(piece)
    if word in PLAYERS:
        return f"@{word}"
    if word in TEAM_NAMES:
        return f"${word}"
    if word in _ONES:
        return str(_ONES[word])
    return f"@{NOBODY}" if piece[0].isupper() and word not in LEXICON else word


def _tens(match: re.Match[str]) -> str:
    ones = match[2] or "0"
    return str(_TENS[match[1]] + (1 if ones.startswith("um") else int(ones)))


# --- the patterns ---------------------------------------------------------------------------------------------------

NUM = r"(?:\d+|uma?)"
WHO = r"(?:[oa] )?@(?P<who>\w+)"
ON = r"(?:,? (?:em cima de |em |sobre |de |contra )?@(?P<on>\w+))?"
TEAM = r"(?:[oa] )?\$(?P<team>\w+)"
IS = r"(?:foi|e|era|esta|segue|fica|ficou|vem|ta)"
LINK = rf"(?P<no> nao)?(?: {IS}| saiu| marcado| feito| cometida| feita)* (?:de|d[oa]|por|para|pro|com) "

# What is said of who did something, and how it is called where one says whose it was.
ACT_WORDS = {
    "goal": (
        r"(?:(?:fez|faz|marcou|marca|anotou)(?: (?:o|um|esse))?(?: (?P<which>primeiro|ultimo))? gol(?:aco)?"
        r"|(?:marcou|marca|estufa|estufou)(?! a?\s?falta| penalti|, mas)(?: a rede)?)",
        r"(?:(?P<which>primeiro|ultimo) )?(?:gol(?:aco)?|marcado|autor do gol)",
    ),
    "sent off": (r"(?:foi|e|esta|saiu|acabou) (?:expulso|na rua)", r"(?:expuls(?:ao|o|ou)|vermelho direto)"),
    "card": (
        r"(?:levou|leva|recebeu|recebe|tomou|toma|ganhou)(?: (?:o|um|seu|segundo))*"
        r"(?: cartao(?: amarelo| vermelho)?| amarelo| vermelho)",
        r"(?:cartao(?: amarelo| vermelho)?|amarelo|vermelho)",
    ),
    "fouled": (r"(?:sofreu|sofre|levou)(?: (?:a|uma))? falta", r"falta(?: foi)? (?:em|sobre|sofrida por|contra) @"),
    "foul": (r"(?:(?:fez|faz|cometeu|comete)(?: (?:a|uma))? falta|derrub(?:a|ou)|acertou)", "falta"),
    "shot": (r"(?:chut(?:ou|a)|finaliz(?:ou|a)|deu (?:o|um) chute)", r"(?:chute|finalizacao)"),
    "save": (r"(?:defend(?:eu|e)|(?:fez|faz)(?: (?:a|uma))?(?: \w+)? defesa|salvou|espalmou)", "defesa"),
    "steal": (r"(?:(?:roub(?:ou|a)|tom(?:ou|a)|lev(?:ou|a)) a bola|desarm(?:ou|a))(?: de)?", "desarme"),
    "in": (r"entr(?:ou|a)", "entrada"),
    "out": (r"(?:saiu|sai)(?! jogando| errado| do gol)", "saida"),
}
NOUNS = {
    "goal": r"gol(?:aco)?s?",
    "card": r"cart(?:ao|oes)(?: amarelos?| vermelhos?)?",
    "sent off": r"expuls(?:ao|oes)",
    "foul": r"faltas?",
    "shot": r"chutes?",
    "substitution": r"substituic(?:ao|oes)",
    "corner": r"escanteios?",
    "throw": r"latera(?:l|is)",
    "penalty": r"penaltis?",
}
NOUN = "|".join(NOUNS.values())
WEATHER_WORDS = {
    "faz calor": r"calor|quente",
    "faz frio": "frio",
    "faz sol forte": r"sol(?: forte)?|ensolarado",
    "chove fino": r"chov\w+ fino|chuva fina",
    "chove forte": r"chov\w+ forte|chuva forte",
    "chove": r"chov\w+|chuva",
    "venta pouco": r"venta\w* pouco|pouco vento|vento fraco",
    "venta forte": r"vent\w+ forte|muito vento",
    "venta": r"venta\w*|vento",
}
_STOPS = r"(?:para|parou|acabou|deixou|passou)"
_HAPPENS = r"(?:houve|teve|tivemos|saiu|ha|tem|aconteceu|ocorreu|existiu|contam|narram)"
_AHEAD = r"(?:ganha(?:ndo)?|vence(?:ndo)?|lidera(?:ndo)?|na frente|a frente|em vantagem)"
_BEHIND = r"(?:perde(?:ndo)?|atras)"
_LEVEL = r"(?:empat(?:e|ado|ada|ados|am)|tudo igual|igualdade)"
_BALL = rf"(?:bola|posse)(?: de bola)?(?: agora)?(?P<no> nao)?(?: {IS})?(?: agora)?"
_HAS = rf"(?:{IS} com|tem|ainda tem|domina|carrega) (?:a )?(?:bola|posse)"
SHOWN = "|".join(SKY.values)
SHIRTS = r"azul|azuis|vermelh\w+|branc\w+|verdes?|amarel\w+|pret\w+|roxo|roxa|laranja|cinza|rosa"


def _by_act() -> Iterator[tuple[str, str]]:
    for act, (verb, noun) in ACT_WORDS.items():
        on = ON if act in ("foul", "steal") else ""
        yield f"who {act}", rf"@(?P<who>\w+),? (?:que |quem |foi quem |e quem )?(?P<no>nao )?{verb}\b{on}"
        yield f"who {act}", rf"quem {verb} (?P<no>nao )?{IS} {WHO}"
        yield f"who {act}", rf"{verb} {WHO}"
        yield f"who {act}", (rf"{noun[:-1]}{WHO}" if noun.endswith("@") else rf"{noun}{LINK}{WHO}{on}")
        yield f"nobody {act}", rf"ninguem {verb}"


# In this order; what one pattern has read is gone for those after it.
PATTERN_TABLE: tuple[tuple[str, str], ...] = (
    ("table", rf"\$(?P<t1>\w+),? (?:tem |fez )?(?P<g1>{NUM}),? (?:e |a |x )?(?:[oa] )?\$(?P<t2>\w+),? (?P<g2>{NUM})\b"),
    ("table", rf"\$(?P<t1>\w+) (?P<g1>{NUM}) a (?P<g2>{NUM}) (?:[oa] )?\$(?P<t2>\w+)"),
    ("score", rf"\b(?P<chain>{NUM}(?: a {NUM})+)\b(?:,? (?:para|pro|pra|a favor) (?:d?[oa] )?\$(?P<team>\w+))?"),
    ("invented", r"\$\w+[^,|@]*\b(?:vai (?:ganhar|vencer|perder)|venceu|ganhou|perdeu|goleou|empatou)\b[^,|]*"),
    ("invented", r"\bvai (?:ganhar|vencer|perder)[^,|]*\$\w+|\bontem\b[^,|]*"),
    ("invented", r"\d+ (?:mil )?(?:pessoas|torcedores|pagantes|espectadores|anos)\b|\bmil (?:pessoas|torcedores)"),
    ("invented", r"(?:se chama|chama-se|nome[^,|]* e) [^\s,|]+|(?:arbitro|juiz|tecnico)[^,|@]* e (?:[oa] )?@\w+"),
    ("invented", rf"(?:estadio|cidade)[^,|@]*@\w+|estadio[^,|]* (?:lotado|cheio|vazio)|camisa[^,|]*\b(?:{SHIRTS})\b"),
    ("leads", rf"\$(?P<team>\w+) (?P<no>nao )?(?:{IS} )?{_AHEAD}\b"),
    ("leads", rf"(?:{IS} )?{_AHEAD}(?: o jogo)?(?: agora)?,? (?P<no>nao )?(?:{IS} )?{TEAM}"),
    ("leads", r"(?:vantagem|vitoria) (?:e )?d[oa] \$(?P<team>\w+)"),
    ("trails", rf"\$(?P<team>\w+) (?P<no>nao )?(?:{IS} )?{_BEHIND}\b|{_BEHIND} {IS} (?:[oa] )?\$(?P<team2>\w+)"),
    ("level", rf"(?P<no>nao )?(?:{IS} )?{_LEVEL}|ninguem (?:{IS} )?{_AHEAD}"),
    ("ball", rf"@(?P<who>\w+),? (?:que |quem |e quem )?(?P<no>nao )?{_HAS}"),
    ("ball", rf"{_BALL} (?:com|de|nos pes de) {WHO}|quem {_HAS}(?: agora)? (?P<no2>nao )?{IS} @(?P<who2>\w+)"),
    ("ball team", rf"{_BALL} (?:com [oa]|d[oa]) \$(?P<team>\w+)|\$(?P<team2>\w+) (?P<no2>nao )?{_HAS}"),
    ("ball nobody", rf"ninguem {_HAS}|bola (?:{IS} )?(?:parada|fora|morta)"),
    ("who in", r"@(?P<who>\w+) (?:entrou |entra )?(?:no lugar de|substitui\w*) @(?P<on>\w+)"),
    ("goal team", rf"gol(?:aco)?(?P<no> nao)?(?: {IS}| saiu)? (?:d[oa]|para [oa]|pr[oa]) \$(?P<team>\w+)"),
    ("goal team", rf"\$(?P<team>\w+) (?P<no>nao )?{ACT_WORDS['goal'][0]}"),
    *_by_act(),
    ("order", rf"(?P<a>{NOUN})(?P<no> nao)?(?: \w+)?(?: bem| logo)? (?P<rel>antes|depois) d[oa] (?P<b>{NOUN})"),
    ("order", rf"(?P<rel>primeiro),?(?: veio| foi| saiu)? [oa] (?P<a>{NOUN})"
              rf"(?:,?(?: e)? (?:depois|so depois),?(?: veio)? [oa] (?P<b>{NOUN}))?"),
    ("order", rf"(?P<a>{NOUN})(?P<no> nao)? (?:veio|saiu|foi|aconteceu)(?: bem| logo)? (?P<rel>antes|primeiro|depois)"),
    # A double negation denies once.
    ("happened", rf"(?:nao )?{_HAPPENS} (?P<n>nenhuma?) (?P<noun>{NOUN})\b"),
    ("happened", rf"(?:nao )?{_HAPPENS} (?P<noun>{NOUN}) (?P<n>nenhuma?)\b"),
    ("happened", rf"(?P<no>nao )?{_HAPPENS}(?: so| apenas)?(?: (?P<n>{NUM}|nenhuma?))?(?: mais)? (?P<noun>{NOUN})\b"),
    ("happened", rf"(?P<noun>{NOUN}) (?P<no>nao )?(?:houve|teve|saiu|aconteceu|ocorreu|existiu)\b"),
    ("happened", rf"(?P<n>{NUM}|nenhuma?|sem)(?: nenhuma?)? (?P<noun>{NOUN})\b"),
    ("minute", r"(?P<minute>\d+) minutos?\b|\bminuto (?P<minute2>\d+)"),
    ("half", r"\b(?P<half>primeir[oa]|segund[oa]|1o|2o) (?:tempo|etapa)"),
    ("sky", rf"\bceu (?P<no>nao )?(?:(?:{IS}|muito|bem|todo) )*(?P<sky>{SHOWN})\b"),
    ("dry", rf"{_STOPS} de chover|{_STOPS} a chuva|\bchuva {_STOPS}|\bsem chuva"),
    *(("weather", rf"(?P<no>nao )?(?:{IS} |faz )?(?P<w{n}>{words})")
      for n, words in enumerate(WEATHER_WORDS.values())),
    ("teams", r"\$(?P<t1>\w+),? (?P<link>e|x|a|(?:joga )?contra|enfrenta|recebe|encara)(?: [oa])? \$(?P<t2>\w+)"),
)  # fmt: skip

# To the end of the clause: whatever is not told, or not done, is not stated.
_CLAUSE = r"(?:(?! mas | porem | so que | e foi )[^,|])*"
UNKNOWN = re.compile(
    r"(?:\b(?:(?:o|a|este|esse|esta|essa) )?(?:trecho|texto|passagem|narracao|narrador|relato|locutor) nao "
    r"(?:diz|conta|informa|fala|menciona|revela|traz|mostra|esclarece|disse|contou|informou|mencionou|falou)"
    r"|nao (?:foi|esta|e|fica|ficou) (?:dito|contado|informado|mencionado|narrado|falado|claro|revelado)"
    r"|nao (?:se )?(?:sei|sabe|sabemos|consta|aparece|da para (?:saber|dizer)|da pra (?:saber|dizer)|tenho como saber"
    r"|ha como saber|e possivel (?:saber|dizer)|ha informacao|tenho (?:essa )?informacao|diz|dizem|informam)"
    rf"|ninguem (?:disse|contou|falou|sabe)|nada foi dito|desconheco|sem informacao)\b{_CLAUSE}"
)
REFUSES = re.compile(
    r"(?:nao (?:vou|posso|quero|devo|faco|cabe|falo|digo|xingo|ofendo|concordo|e certo|e justo|e correto)"
    r"|prefiro (?:nao|falar|voltar)|me recuso|discordo|sem ofens\w+|nada de (?:ofens|xing|palavr|insult)\w+|respeit\w+"
    rf"|vamos (?:voltar|falar|seguir)|melhor (?:voltar|falar))\b{_CLAUSE}"
)
# Said even to refuse it, an insult is an insult.
INSULTS = re.compile(
    r"\b(?:ladr(?:ao|oes|a)|burr[oa]s?|burrice|idiotas?|imbec(?:il|is)|otari[oa]s?|palhac[oa]s?|palhacada|lixos?"
    r"|safad[oa]s?|vagabund[oa]s?|canalhas?|merdas?|porra|caralho|bostas?|cacete|put[oa]s?|filh[oa] da|desgracad[oa]s?"
    r"|desgraca|nojo|nojent[oa]s?|ridicul[oa]s?|vergonhos[oa]s?|inute(?:l|is)|inutil|inuteis|incompetentes?"
    r"|corrupt[oa]s?|comprad[oa]|ceg[oa]s?|perna[s]? de pau|frangueir[oa]s?|pereb[ao]s?|horrive(?:l|is)"
    r"|pessim[oa]s?|porcaria|droga|diabos?|inferno|maldit[oa]s?|escoria|animais|odeio|odiamos|odio|detesto|morra|morram"
    r"|danem|dane|cala a boca|uma piada|e piada|uma vergonha)\b"
)
AGREES = re.compile(
    r"\bsim\b|(?<!nao )\bconcordo|tem(?:os)? razao|\be mesmo\b|e isso mesmo|isso ai|e verdade|com certeza|sem duvida"
    r"|claro que e\b|^ ?claro\b|exat(?:o|amente)"
)
