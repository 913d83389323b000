"""How each kind of event is told: the phrases of the two commentators.

One phrase a line; `=` opens those of the contained commentator, `!` those of the one carried away, and the others are
both's. (a|b) is a choice between equals. Slots name a role of `match.role`, with a form where it takes one:

    A who has the ball     B, F a team-mate     C who takes a kick     D an opponent      K the other keeper
    P whoever has it       R who kicks off      X, Y who goes and comes                   L who committed the foul
    T, O the team with the ball and the other; H, V home and visitors; S the team of P
    {o T} {O T} {do T} {no T} {ao T} {T}        a team with its article, contracted as Portuguese asks, or bare
    {score} {table} {words}                     2 a 1 para o Farol; Farol 2, Maré 1; dois a um para o Farol
    {score+} {table+} {words+}                  the same after the goal
    {minute} {later} {half} {sky} {weather}     37 minutos; the same, some minutes on; primeiro; azul; faz calor
"""

PATTERNS: dict[str, str] = {
    "sky": """
        O céu está {sky} (sobre o estádio|nesta tarde), e {weather}.
        O céu está {sky}, e {weather}.
      = O céu está {sky}, senhoras e senhores, e {weather}.
      ! O céu está {sky}, minha gente, e {weather}!
    """,
    "teams": """
        {O H} (recebe|enfrenta) {o V}.
        Em campo, {o H} e {o V}.
      = Boa tarde. Jogam {o H} e {o V}.
      ! Alô, alô, torcida! Hoje tem {H} e {V}!
    """,
    "clock": """
        {minute} do {half} tempo: {table}.
        Estamos com {minute} do {half} tempo, {score}.
      = Aos {minute} do {half} tempo, o placar é de {score}.
      ! O relógio marca {minute} do {half} tempo, e está {words}!
    """,
    "found": """
        A bola está com {P}, {do S}.
        {P} tem a bola (no meio do campo|na intermediária).
        Quem tem a bola é {P}, {do S}.
    """,
    "pass|pass_forward|pass_back": """
        {A} (toca|passa|rola) para {B}.
        {A} (abre o jogo|troca passes) com {B}.
      = Bola de {A} para {B}.
      ! {A} (serve|aciona|procura) {B}, (que categoria|olha o toque)!
    """,
    "pass": """
        {A} toca de lado para {B}.
    """,
    "pass_forward": """
        {A} (enfia|adianta) a bola para {B}.
      ! {A} acha {B} lá na frente!
    """,
    "pass_back": """
        {A} (recua|volta o jogo) para {B}.
    """,
    "long_pass": """
        {A} lança {F} na (ponta|área).
        Lançamento longo de {A} para {F}.
      ! {A} mete um lançamento de cinema para {F}!
    """,
    "carry": """
        {A} (avança|conduz a bola) pelo meio.
        {A} sobe pela (direita|esquerda).
      = {A} ganha terreno com calma.
      ! Lá vai {A}, ninguém segura!
    """,
    "dribble": """
        {A} (dribla|passa por) {D}.
        {A} deixa {D} para trás.
      ! {A} dá um chapéu em {D}, que lindo!
      ! Olha a caneta de {A} em {D}!
    """,
    "steal": """
        {D} (rouba|toma) a bola de {A}.
        {D} desarma {A}.
      = Bom desarme de {D} sobre {A}.
      ! {D} chega rasgando e leva a bola de {A}!
    """,
    "intercept": """
        {A} erra o passe, e {D} fica com a bola.
        {D} (corta|intercepta) o passe de {A}.
      ! Ih, {A} entregou de presente para {D}!
    """,
    "foul": """
        Falta de {D} em {A}.
        {D} derruba {A}, e o árbitro marca falta.
      = {D} comete falta em {A}.
      ! {D} acertou {A} em cheio, falta feia!
    """,
    "throw_won": """
        A bola sai pela lateral: é {do T}.
        Lateral para {o T}.
    """,
    "throw_lost": """
        A bola sai pela lateral: é {do O}.
        Lateral para {o O}.
    """,
    "offside": """
        {A} lança {F}, mas a bandeira sobe: impedimento.
        Impedimento de {F}.
      ! {A} achou {F}, mas estava impedido!
    """,
    "disallowed": """
        {A} põe a bola na rede, mas o gol é anulado por impedimento.
      ! {A} marca, mas não vale, não vale! Gol anulado!
    """,
    "shot_saved": """
        {A} (chuta|bate) (de longe|rasteiro|cruzado), e {K} (defende|segura).
      = Chute de {A}, boa defesa de {K}.
      ! {A} solta a bomba, e {K} voa para salvar!
    """,
    "shot_wide": """
        {A} (chuta|finaliza) para fora.
        O chute de {A} passa (perto da trave|longe do gol).
      ! {A} encheu o pé, e a bola foi parar na arquibancada!
    """,
    "shot_post": """
        {A} chuta na trave, e a sobra é de {D}.
      ! Na trave! {A} quase marcou, e a sobra é de {D}!
    """,
    "shot_blocked": """
        {A} chuta, {D} desvia, e é escanteio para {o T}.
      ! {A} bateu, {D} salvou! É escanteio {do T}!
    """,
    "goal": """
        Gol {do T}! {A} (bate|chuta) no canto e marca. Agora, {score+}.
        É gol! {A} vence {K} e marca. {table+}.
      = Gol {do T}, marcado por {A}. O placar passa a {score+}.
      ! Goooool {do T}! {A} estufa a rede! Agora é {words+}!
    """,
    "cross": """
        {A} cruza para {F}.
        {A} levanta a bola na área para {F}.
      ! {A} manda na área, olha {F} chegando!
    """,
    "penalty": """
        {D} derruba {A} na área, e é pênalti para {o T}.
      ! Pênalti! {D} atropelou {A} na área!
    """,
    "header_goal": """
        {A} cabeceia, e é gol {do T}! Agora, {score+}.
      = {A}, de cabeça, faz o gol {do T}. O placar passa a {score+}.
      ! {A} subiu mais que todo mundo e é goooool {do T}! Agora é {words+}!
    """,
    "header_saved": """
        {A} cabeceia, e {K} (defende|segura).
      ! {A} testou firme, e {K} fez um milagre!
    """,
    "header_wide": """
        {A} cabeceia para fora.
      ! {A} testou com força, e a bola passou raspando!
    """,
    "cross_cleared": """
        {D} (afasta|tira) de cabeça.
        {D} chega antes de {A} e fica com a bola.
    """,
    "cross_caught": """
        {K} sai do gol e fica com a bola.
      ! {K} subiu e agarrou firme!
    """,
    "cross_controlled": """
        {A} domina (no peito|na área).
    """,
    "keeper_short": """
        {A} sai jogando com {B}.
      = {A} repõe a bola com {B}.
    """,
    "keeper_long": """
        {A} dá um chutão para {F}.
        {A} joga com a mão para {F}.
    """,
    "keeper_lost": """
        {A} sai errado, e {D} fica com a bola.
      ! Que lambança de {A}, a bola é de {D}!
    """,
    "warning": """
        O árbitro conversa com {L} e não dá cartão.
      ! O árbitro chama {L} e deixa passar!
    """,
    "yellow": """
        Cartão amarelo para {L}.
        {L} recebe o cartão amarelo.
      ! O árbitro não perdoa: amarelo para {L}!
    """,
    "second_yellow": """
        Segundo amarelo para {L}, que está expulso.
      ! Outro amarelo para {L}! Está na rua!
    """,
    "red": """
        Cartão vermelho para {L}.
        {L} é expulso de campo.
      ! Vermelho direto para {L}! Está na rua!
    """,
    "free_short": """
        {C} cobra curto para {B}.
        {C} põe a bola em jogo com {B}.
    """,
    "free_cross": """
        {C} cobra na área para {F}.
      ! {C} joga na área, olha {F}!
    """,
    "free_goal": """
        {C} bate a falta, e é gol {do T}! Agora, {score+}.
      ! {C} bateu por cima da barreira, goooool {do T}! Agora é {words+}!
    """,
    "free_saved": """
        {C} bate a falta, e {K} (defende|segura).
    """,
    "free_wall": """
        {C} bate na barreira, e {D} afasta.
      ! {C} encheu o pé, explodiu na barreira, e {D} tirou!
    """,
    "corner_cross": """
        {C} cobra o escanteio para {F}.
      ! {C} levanta no escanteio, olha {F}!
    """,
    "corner_short": """
        {C} cobra o escanteio curto para {B}.
    """,
    "penalty_goal": """
        {C} bate o pênalti e faz o gol {do T}. Agora, {score+}.
      ! {C} bateu o pênalti, goooool {do T}! Agora é {words+}!
    """,
    "penalty_saved": """
        {C} bate o pênalti, e {K} defende.
      ! {C} bateu, {K} pegou o pênalti!
    """,
    "penalty_wide": """
        {C} bate o pênalti para fora.
      ! {C} isolou o pênalti, não acredito!
    """,
    "throw": """
        {C} cobra o lateral para {B}.
        Cobrança de {C} para {B}.
    """,
    "restart": """
        {R} recomeça o jogo para {o O}.
        {R} dá a saída.
    """,
    "substitution": """
        Substituição {no T}: sai {X}, entra {Y}.
      = Entra {Y} no lugar de {X} {no T}.
      ! Mexida {no T}: {X} dá lugar a {Y}!
    """,
    "later": """
        Já são {later}.
        {later} do {half} tempo.
      ! O tempo voa, já são {later}!
    """,
    "score": """
        O placar (segue|continua) em {score}.
      = {table}.
      ! Está {words}, minha gente!
    """,
    "crowd": """
        A torcida {do (H|V)} (canta|aplaude|vaia).
      ! Que festa da torcida {do (H|V)}!
    """,
    "coach": """
        O técnico {do (T|O)} (reclama|pede calma).
      ! O técnico {do (T|O)} está furioso!
    """,
    "bench": """
        Os reservas {do (T|O)} aquecem.
      ! O banco {do (T|O)} está de pé!
    """,
    "injury": """
        {A} fica caído, mas já se levanta.
      ! {A} ficou no chão, mas já levantou!
    """,
    "possession": """
        {A} segue com a bola.
        A posse é {do T}.
      ! A bola é {do T}, a bola é de {A}!
    """,
    "celebration": """
        {A} comemora com a torcida.
        Festa {do T}.
      ! {A} corre para o abraço, é festa {do T}!
    """,
    "rain_starts": """
        Começa a chover.
      ! Olha a chuva chegando!
    """,
    "rain_stops": """
        A chuva para.
      ! Acabou a chuva, minha gente!
    """,
    "over": """
        O árbitro apita: fim do {half} tempo, {score}.
      ! Acabou, acabou o {half} tempo! Está {words}!
    """,
}
