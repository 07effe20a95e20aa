"""The words of an artefact's graph: every op that a file may call.

They are functional overloads that programs of fxlrp are made of. None writes to what it is given, draws random numbers,
opens a file, or makes tensors that are sparse, quantised, nested or without content. `fxlrp.checked_ops` has what some
of them must be asked first.
"""

from __future__ import annotations

SUMS_AND_PRODUCTS = """
    abs.default add.Scalar add.Tensor addbmm.default addcdiv.default addcmul.default addmm.default addmv.default
    addr.default baddbmm.default bmm.default convolution.default convolution_backward.default conv1d.default
    conv1d.padding conv2d.default conv2d.padding conv3d.default conv3d.padding conv_transpose1d.default
    conv_transpose2d.input conv_transpose3d.input cumprod.default cumsum.default div.Scalar div.Scalar_mode
    div.Tensor div.Tensor_mode dot.default linear.default matmul.default mean.default mean.dim mm.default mul.Scalar
    mul.Tensor mv.default neg.default prod.default prod.dim_int rsub.Scalar rsub.Tensor sub.Scalar sub.Tensor
    sum.default sum.dim_IntList trace.default vdot.default _trilinear.default
"""

POINTWISE = """
    acos.default acosh.default angle.default asin.default asinh.default atan.default atan2.default atanh.default
    bitwise_and.Scalar bitwise_and.Tensor bitwise_not.default bitwise_or.Scalar bitwise_or.Tensor bitwise_xor.Tensor
    ceil.default celu.default clamp.Tensor clamp.default clamp_max.Tensor clamp_max.default clamp_min.Tensor
    clamp_min.default complex.default _conj.default _conj_physical.default conj_physical.default copysign.Scalar
    copysign.Tensor cos.default cosh.default deg2rad.default digamma.default elu.default elu_backward.default
    eq.Scalar eq.Tensor erf.default erfc.default erfinv.default exp.default exp2.default expm1.default floor.default
    floor_divide.default fmax.default fmin.default fmod.Scalar fmod.Tensor frac.default frexp.Tensor ge.Scalar
    ge.Tensor gelu.default gelu_backward.default glu.default glu_backward.default gt.Scalar gt.Tensor
    hardshrink.default hardshrink_backward.default hardsigmoid.default hardsigmoid_backward.default
    hardswish.default hardswish_backward.default hardtanh.default hardtanh_backward.default heaviside.default
    hypot.default i0.default imag.default isfinite.default isinf.default isnan.default ldexp.Tensor le.Scalar
    le.Tensor leaky_relu.default leaky_relu_backward.default lerp.Scalar lerp.Tensor lgamma.default log.default
    log10.default log1p.default log2.default log_sigmoid.default log_sigmoid_backward.default
    log_sigmoid_forward.default logaddexp.default logaddexp2.default logical_and.default logical_not.default
    logical_or.default logical_xor.default logit.default logit_backward.default lt.Scalar lt.Tensor
    masked_fill.Scalar masked_fill.Tensor maximum.default max.other minimum.default min.other mish.default
    mish_backward.default mvlgamma.default nan_to_num.default ne.Scalar ne.Tensor _neg_view.default
    nextafter.default polar.default polygamma.default positive.default pow.Scalar pow.Tensor_Scalar
    pow.Tensor_Tensor prelu.default _prelu_kernel.default _prelu_kernel_backward.default rad2deg.default
    real.default reciprocal.default relu.default relu6.default remainder.Scalar remainder.Scalar_Tensor
    remainder.Tensor round.decimals round.default rsqrt.default selu.default sgn.default sigmoid.default
    sigmoid_backward.default sign.default signbit.default silu.default silu_backward.default sin.default
    sinc.default sinh.default softplus.default softplus_backward.default softshrink.default
    softshrink_backward.default special_entr.default special_erfcx.default special_i0e.default special_i1.default
    special_i1e.default special_log_ndtr.default special_ndtri.default special_xlog1py.default sqrt.default
    square.default tan.default tanh.default tanh_backward.default threshold.default threshold_backward.default
    trunc.default where.ScalarOther where.ScalarSelf where.self xlogy.Scalar_Other xlogy.Scalar_Self xlogy.Tensor
"""

REDUCTIONS = """
    all.default all.dim _is_all_true.default amax.default amin.default aminmax.default any.default any.dim any.dims
    argmax.default argmin.default argsort.default count_nonzero.dim_IntList cummax.default cummin.default dist.default
    kthvalue.default linalg_vector_norm.default logcumsumexp.default logsumexp.default max.default max.dim
    median.default median.dim min.default min.dim mode.default nanmedian.default nanmedian.dim nansum.default
    norm.Scalar norm.ScalarOpt_dim segment_reduce.default _segment_reduce_backward.default sort.default sort.stable
    std.correction std.dim std_mean.correction topk.default var.correction var.dim var_mean.correction
    _cdist_backward.default _cdist_forward.default _pdist_backward.default _pdist_forward.default
"""

NORMS_AND_ATTENTION = """
    _log_softmax.default _log_softmax_backward_data.default _safe_softmax.default _softmax.default
    _softmax_backward_data.default batch_norm.default batch_norm_backward.default group_norm.default
    instance_norm.default layer_norm.default log_softmax.int native_group_norm.default
    native_group_norm_backward.default native_layer_norm.default native_layer_norm_backward.default rms_norm.default
    _fused_rms_norm.default _fused_rms_norm_backward.default softmax.int _batch_norm_with_update_functional.default
    _native_batch_norm_legit.no_stats _native_batch_norm_legit_functional.default
    _native_batch_norm_legit_no_training.default native_batch_norm_backward.default
    scaled_dot_product_attention.default _scaled_dot_product_attention_math.default
    _scaled_dot_product_flash_attention_for_cpu.default _scaled_dot_product_flash_attention_for_cpu_backward.default
    _scaled_dot_product_flash_attention.default _scaled_dot_product_flash_attention_backward.default
    _scaled_dot_product_efficient_attention.default _scaled_dot_product_efficient_attention_backward.default
    _scaled_dot_product_cudnn_attention.default _scaled_dot_product_cudnn_attention_backward.default
"""

POOLS_AND_SAMPLERS = """
    _adaptive_avg_pool2d.default _adaptive_avg_pool2d_backward.default _adaptive_avg_pool3d.default
    _adaptive_avg_pool3d_backward.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
    adaptive_avg_pool3d.default adaptive_max_pool1d.default adaptive_max_pool2d.default
    adaptive_max_pool2d_backward.default adaptive_max_pool3d.default adaptive_max_pool3d_backward.default
    avg_pool1d.default avg_pool2d.default avg_pool2d_backward.default avg_pool3d.default avg_pool3d_backward.default
    fractional_max_pool2d.default fractional_max_pool2d_backward.default fractional_max_pool3d.default
    fractional_max_pool3d_backward.default grid_sampler_2d.default grid_sampler_2d_backward.default
    grid_sampler_3d.default grid_sampler_3d_backward.default max_pool1d.default max_pool1d_with_indices.default
    max_pool2d.default max_pool2d_with_indices.default max_pool2d_with_indices_backward.default max_pool3d.default
    max_pool3d_with_indices.default max_pool3d_with_indices_backward.default upsample_bicubic2d.default
    upsample_bicubic2d.vec upsample_bicubic2d_backward.default upsample_bilinear2d.default upsample_bilinear2d.vec
    upsample_bilinear2d_backward.default upsample_linear1d.default upsample_linear1d.vec
    upsample_linear1d_backward.default upsample_nearest1d.default upsample_nearest1d.vec
    upsample_nearest1d_backward.default upsample_nearest2d.default upsample_nearest2d.vec
    upsample_nearest2d_backward.default upsample_nearest3d.default upsample_nearest3d.vec
    upsample_nearest3d_backward.default upsample_trilinear3d.default upsample_trilinear3d.vec
    upsample_trilinear3d_backward.default _upsample_bicubic2d_aa.default _upsample_bicubic2d_aa_backward.default
    _upsample_bilinear2d_aa.default _upsample_bilinear2d_aa_backward.default
"""

MOVES = """
    alias.default as_strided.default as_strided_copy.default as_strided_scatter.default broadcast_to.default
    cat.default chunk.default clone.default col2im.default constant_pad_nd.default contiguous.default copy.default
    detach.default diag_embed.default diagonal.default diagonal_backward.default diagonal_scatter.default
    dropout.default expand.default expand_as.default flatten.using_ints flip.default im2col.default movedim.intlist
    narrow.default permute.default pixel_shuffle.default pixel_unshuffle.default reflection_pad1d.default
    reflection_pad1d_backward.default reflection_pad2d.default reflection_pad2d_backward.default
    reflection_pad3d.default reflection_pad3d_backward.default repeat.default repeat_interleave.Tensor
    repeat_interleave.self_int replication_pad1d.default replication_pad1d_backward.default
    replication_pad2d.default replication_pad2d_backward.default replication_pad3d.default
    replication_pad3d_backward.default reshape.default resolve_conj.default resolve_neg.default roll.default
    rot90.default select.int select_backward.default select_scatter.default slice.Tensor slice_backward.default
    slice_scatter.default split.Tensor split_with_sizes.default squeeze.default squeeze.dim squeeze.dims
    stack.default t.default to.device to.dtype to.dtype_layout _to_copy.default transpose.int tril.default
    triu.default type_as.default unbind.int unflatten.int unfold.default unfold_backward.default unsqueeze.default
    view.default view.dtype view_as_complex.default view_as_real.default _unsafe_view.default
"""

COPIES = """
    _conj_copy.default _neg_view_copy.default alias_copy.default detach_copy.default diagonal_copy.default
    expand_copy.default lift_fresh_copy.default narrow_copy.default permute_copy.default select_copy.int
    slice_copy.Tensor split_copy.Tensor split_with_sizes_copy.default squeeze_copy.default squeeze_copy.dim
    squeeze_copy.dims t_copy.default transpose_copy.int unbind_copy.int unfold_copy.default unsqueeze_copy.default
    view_as_complex_copy.default view_as_real_copy.default view_copy.default view_copy.dtype
"""

SELECTIONS = """
    _embedding_bag_backward.default embedding.default embedding_dense_backward.default _embedding_bag.default
    _embedding_bag_dense_backward.default _embedding_bag_forward_only.default
    _embedding_bag_per_sample_weights_backward.default gather.default index.Tensor _unsafe_index.Tensor
    _unsafe_index_put.default index_add.default index_copy.default index_fill.int_Scalar index_fill.int_Tensor
    index_put.default index_reduce.default index_select.default masked_scatter.default
    masked_scatter_backward.default masked_select.default nll_loss_backward.default nll_loss_forward.default
    nll_loss2d_backward.default nll_loss2d_forward.default nonzero.default one_hot.default put.default
    scatter.reduce scatter.src scatter.value scatter_add.default scatter_reduce.two searchsorted.Tensor
    bucketize.Tensor take.default value_selecting_reduction_backward.default
"""

MATRICES = """
    cholesky.default cholesky_inverse.default cholesky_solve.default _fft_c2c.default _fft_c2r.default
    _fft_r2c.default _linalg_det.default _linalg_eigh.default _linalg_slogdet.default _linalg_solve_ex.default
    _linalg_svd.default linalg_cholesky_ex.default linalg_eig.default linalg_householder_product.default
    linalg_inv_ex.default linalg_lu.default linalg_lu_factor_ex.default linalg_lu_solve.default
    linalg_matrix_exp.default linalg_pinv.atol_rtol_tensor linalg_qr.default linalg_solve_triangular.default
    lu_unpack.default ormqr.default triangular_solve.default
"""

NEW = """
    empty_permuted.default arange.default arange.start arange.start_step empty.memory_format empty_like.default
    eye.default eye.m fill.Scalar fill.Tensor full.default full_like.default linspace.default new_empty.default
    new_full.default new_ones.default new_zeros.default ones.default ones_like.default scalar_tensor.default
    zeros.default zeros_like.default
"""

SIZES = """
    _assert_scalar.default _assert_tensor_metadata.default _local_scalar_dense.default item.default
    sym_constrain_range.default sym_constrain_range_for_size.default sym_numel.default sym_size.int
    sym_storage_offset.default sym_stride.int
"""

GROUPS = (
    SUMS_AND_PRODUCTS, POINTWISE, REDUCTIONS, NORMS_AND_ATTENTION, POOLS_AND_SAMPLERS, MOVES, COPIES, SELECTIONS,
    MATRICES, NEW, SIZES,
)  # fmt: skip
OPS = frozenset(name for group in GROUPS for name in group.split())
"""Overloads of ATen, such as ``add.Tensor``."""
