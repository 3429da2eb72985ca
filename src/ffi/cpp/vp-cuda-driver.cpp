// The functions of NVIDIA's driver that ggml-cuda calls, looked up at the first call instead of linked: a program that
// is linked to libcuda.so.1 does not even start on a machine without a driver. Without one ggml-cuda finds no device and
// calls none of them. One that is missing here, of a newer llama.cpp, is a symbol that the linker cannot find.

#include <cuda_runtime_api.h>

// a shared library keeps its own for itself
#if !defined(_WIN32)
#pragma GCC visibility push(hidden)
#endif
#include <cuda.h>
#if !defined(_WIN32)
#pragma GCC visibility pop
#endif

namespace {

void * find(const char * name) noexcept {
    void * address = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion(name, &address, CUDA_VERSION, cudaEnableDefault, &found);
#else
    const cudaError_t status = cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found);
#endif
    return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? address : nullptr;
}

template <auto Declared, typename... Args>
CUresult call(const char * name, Args... args) {
    static const auto function = reinterpret_cast<decltype(Declared)>(find(name));
    return function ? function(args...) : CUDA_ERROR_NOT_FOUND;
}

}  // namespace

#define VP_CALL(function, ...) call<&function>(#function, __VA_ARGS__)

CUresult CUDAAPI cuGetErrorString(CUresult error, const char ** text) {
    const CUresult status = VP_CALL(cuGetErrorString, error, text);
    if (status != CUDA_SUCCESS) {
        *text = "the driver does not say";
    }
    return status;
}

CUresult CUDAAPI cuDeviceGet(CUdevice * device, int ordinal) {
    return VP_CALL(cuDeviceGet, device, ordinal);
}

CUresult CUDAAPI cuDeviceGetAttribute(int * value, CUdevice_attribute attribute, CUdevice device) {
    return VP_CALL(cuDeviceGetAttribute, value, attribute, device);
}

CUresult CUDAAPI cuMemGetAllocationGranularity(size_t * granularity, const CUmemAllocationProp * prop,
                                               CUmemAllocationGranularity_flags option) {
    return VP_CALL(cuMemGetAllocationGranularity, granularity, prop, option);
}

CUresult CUDAAPI cuMemAddressReserve(CUdeviceptr * ptr, size_t size, size_t alignment, CUdeviceptr addr,
                                     unsigned long long flags) {
    return VP_CALL(cuMemAddressReserve, ptr, size, alignment, addr, flags);
}

CUresult CUDAAPI cuMemAddressFree(CUdeviceptr ptr, size_t size) {
    return VP_CALL(cuMemAddressFree, ptr, size);
}

CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle * handle, size_t size, const CUmemAllocationProp * prop,
                             unsigned long long flags) {
    return VP_CALL(cuMemCreate, handle, size, prop, flags);
}

CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle) {
    return VP_CALL(cuMemRelease, handle);
}

CUresult CUDAAPI cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                          unsigned long long flags) {
    return VP_CALL(cuMemMap, ptr, size, offset, handle, flags);
}

CUresult CUDAAPI cuMemUnmap(CUdeviceptr ptr, size_t size) {
    return VP_CALL(cuMemUnmap, ptr, size);
}

CUresult CUDAAPI cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc * access, size_t count) {
    return VP_CALL(cuMemSetAccess, ptr, size, access, count);
}
