"""The one table between the key names of released MASS checkpoints and ours (https://github.com/Stanford-AIMI/MASS)."""

_LEVELS = range(1, 9)

PLACES: tuple[tuple[str, str], ...] = (
    ("task_prior_", "class_tokens"),
    ("encoder.inc.conv1.", "encoder.stem."),
    ("encoder.inc.conv2.", "encoder.stem_block."),
    *((f"encoder.down{n}.conv.{block}.", f"encoder.levels.{n - 1}.{block - 1}.") for n in _LEVELS for block in (1, 2)),
    *((f"decoder.up{n}.conv.0.", f"decoder.levels.{n - 1}.join.") for n in _LEVELS),
    *((f"decoder.up{n}.conv.1.", f"decoder.levels.{n - 1}.refine.") for n in _LEVELS),
    ("decoder.prior_fuse.", "decoder.fusions."),
    ("task_embedding.", "task_encoders."),
    ("out.norm.", "classifier.norm."),
    ("out.classifier_pred.0.", "classifier.mlp1."),
    ("out.classifier_pred.1.", "classifier.mlp2."),
)
"""Beginnings of keys: released, ours."""

PARTS: tuple[tuple[str, str], ...] = (
    # residual blocks
    (".conv1.conv.", ".conv1."),
    (".conv2.conv.", ".conv2."),
    (".shortcut.conv.", ".shortcut."),
    # task encoding; norm_query before norm1, which takes its place
    (".task_query", ".queries"),
    (".pos_embed.embedding", ".position"),
    (".norm_query.", ".norm_queries."),
    (".norm_combined.", ".norm_in."),
    (".norm_post.", ".norm_out."),
    (".expand.2.", ".expand."),
    (".merge.2.", ".merge."),
    (".squeeze.2.", ".squeeze."),
    (".query_attn_block_1.", ".self_attention1."),
    (".query_ffn_1.", ".mlp1."),
    (".query_aggregate_block.", ".cross_attention."),
    (".query_aggregate_ffn.", ".mlp2."),
    (".query_attn_block_2.", ".self_attention2."),
    (".query_ffn_2.", ".mlp3."),
    # fusion
    (".prior_aggregate_block.", ".tokens_read_image."),
    (".prior_ffn.", ".tokens_mlp1."),
    (".feat_aggregate_block.", ".image_reads_tokens."),
    (".feat_ffn.", ".image_mlp."),
    (".prior_attn_block.", ".tokens_exchange."),
    (".prior_ffn_2.", ".tokens_mlp2."),
    # attention and MLP
    (".attn_layers.", ".blocks."),
    (".norm1.", ".norm_query."),
    (".norm2.", ".norm_memory."),
    (".fn.mha.in_proj_", ".attention.project_in."),
    (".fn.mha.out_proj.", ".attention.project_out."),
    (".fn.fc1.", ".mlp.linear1."),
    (".fn.fc2.", ".mlp.linear2."),
    (".fc1.", ".linear1."),
    (".fc2.", ".linear2."),
)
"""Pieces of keys, in this order: released, ours."""


def our_key(released: str) -> str:
    """Name of a released tensor in our network; a name outside the table comes back unchanged or half translated."""
    key = next((ours + released[len(theirs) :] for theirs, ours in PLACES if released.startswith(theirs)), released)
    for theirs, ours in PARTS:
        key = key.replace(theirs, ours)
    return key
