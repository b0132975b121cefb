"""The estimate of tokens by scripts: rather too many, and never far from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.context.token_estimate import estimate_tokens

TEXTS = {
    "English": "You arrive at countertop 2. On the countertop 2, you see a bowl 1, a mug 3, and a bread 1.",
    "German": "Der Roboter fährt zur Arbeitsfläche und öffnet anschließend den Kühlschrank über der Spülmaschine.",
    "Vietnamese": "Rô-bốt đi đến tủ lạnh, mở nó ra và lấy quả táo.",
    "Russian": "Робот подъезжает к холодильнику, открывает его и достаёт яблоко.",
    "Arabic": "يصل الروبوت إلى الثلاجة ويفتحها ويأخذ التفاحة.",
    "Hindi": "रोबोट रेफ्रिजरेटर तक जाता है, उसे खोलता है और सेब निकालता है।",
    "Thai": "หุ่นยนต์เดินไปที่ตู้เย็น เปิดมันออกแล้วหยิบแอปเปิ้ล",
    "Chinese": "机器人走到冰箱前,打开冰箱门,取出苹果。然后把苹果放在窗户旁边的架子上。",
    "Japanese": "ロボットは冷蔵庫まで行き、扉を開けてリンゴを取り出します。",
    "Korean": "로봇은 냉장고로 가서 문을 열고 사과를 꺼냅니다.",
    "emoji": "🤖🍎🧊🥶🚪🔑📦🧹🪣🛋️👨‍👩‍👧‍👦👍🏽",
    "Tamil": "ரோபோ குளிர்சாதன பெட்டிக்கு சென்று அதை திறந்து ஆப்பிளை எடுக்கிறது.",
    "Amharic": "ሮቦቱ ወደ ማቀዝቀዣው ሄዶ ይከፍተዋል።",
    "Georgian": "რობოტი მიდის მაცივართან და ხსნის მას.",
    "Braille": "⠿⠶⠤ ⡇⢸⣀ ⠗⠕⠃⠕⠞",
    "numbers": "3.14159 2718281828 1024 77 4096 12:45:09",
    "JSON": '{"objects": [{"id": "obj_1", "type": "Mug", "pos": [1.25, 0.4, -3.75], "visible": true}]}',
    "code": "for i, (x, y) in enumerate(path):\n    self.robot.move(x=x, y=y, speed=0.5)\n",
    "map": "  #########\n  #a..#...d#\n  #.@.+..>.#\n",
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}


@pytest.mark.integration
@pytest.mark.parametrize("name", TEXTS)
def test_it_is_near_the_embedded_models_own_count(name: str, embedded_model: tuple[Any, Any]) -> None:
    # An English vocabulary: of the six that were measured it mostly has the most tokens.
    counted = len(embedded_model[1](TEXTS[name], add_special_tokens=False)["input_ids"])
    assert 0.95 * counted <= estimate_tokens(TEXTS[name]) <= 1.6 * counted


def test_four_characters_a_token_would_be_far_off() -> None:
    for name in ("Chinese", "Japanese", "Arabic", "Thai", "emoji"):
        assert estimate_tokens(TEXTS[name]) > 4 * len(TEXTS[name]) / 4


@given(st.text(), st.text())
def test_a_text_has_no_fewer_tokens_than_its_parts(one: str, other: str) -> None:
    both = estimate_tokens(one + other)
    assert estimate_tokens("") == 0 and both >= max(estimate_tokens(one), estimate_tokens(other)) - 1
