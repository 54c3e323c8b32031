/* src/kernels/cuda/tensor_map.cu -- descriptions of matrices for the copy engine (see hopper.cuh). */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/hopper.cuh"

namespace
{

typedef CUresult (*encode_function)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                                    const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                    CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

plp_status encoder(encode_function *out)
{
    void *f = NULL;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    PLP_TRY(KN_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found)));
#else
    PLP_TRY(KN_CUDA(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &found)));
#endif
    *out = (encode_function)f;
    return f != NULL ? PLP_OK : PLP_FAIL(PLP_ERR_DEVICE, "the driver has no cuTensorMapEncodeTiled; fix: update it to CUDA 12 or later");
}

} // namespace

plp_status kn_tensor_map(CUtensorMap *map, const void *p, int rows, int columns, int64_t ld, int box_rows)
{
    encode_function encode;
    PLP_TRY(encoder(&encode));
    const cuuint64_t size[2] = { (cuuint64_t)columns, (cuuint64_t)rows }, stride[1] = { (cuuint64_t)ld * 2 };
    const cuuint32_t box[2] = { 64, (cuuint32_t)box_rows }, step[2] = { 1, 1 };
    const CUresult r = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)p, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                              CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r == CUDA_SUCCESS) return PLP_OK;
    return PLP_FAIL(PLP_ERR_INTERNAL, "no tensor map for %d rows of %d, %lld apart, %d at once (driver error %d)", rows, columns,
                    (long long)ld, box_rows, (int)r);
}
