# Our own C++, compiled into llama.cpp's target `llama` (vp-mtmd.cpp into `mtmd`): included from src/CMakeLists.txt by
# patches/build_attach_visipruner_sources.patch.

set(VISIPRUNER_SOURCES
    vp-abort.cpp
    vp-attention.cpp
    vp-attn-input.cpp
    vp-context.cpp
    vp-cut.cpp
    vp-devices.cpp
    vp-fallbacks.cpp
    vp-hidden.cpp
    vp-inspect.cpp
    vp-kv-groups.cpp
    vp-probe.cpp
    vp-quantize.cpp
    vp-run.cpp
    vp-sampler.cpp
    vp-seq.cpp
    vp-status.cpp
    vp-upstream.cpp
    vp-vision.cpp
)
list(TRANSFORM VISIPRUNER_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)

target_sources(llama PRIVATE ${VISIPRUNER_SOURCES})

# PUBLIC: mtmd calls vp-vision.h
target_include_directories(llama PUBLIC ${CMAKE_CURRENT_LIST_DIR})

# upstream merges the sources of its models into unity builds, in which an edit of one recompiles its neighbours
set_source_files_properties(${VISIPRUNER_SOURCES} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)

# vp-abort.cpp throws through ggml's C; Microsoft's compiler has no such thing
target_compile_options(ggml-base PRIVATE $<$<AND:$<COMPILE_LANGUAGE:C>,$<NOT:$<C_COMPILER_ID:MSVC>>>:-fexceptions>)

# the driver is looked up at run time; a toolkit without a stub of it is enough to compile with
if (TARGET ggml-cuda)
    target_sources(ggml-cuda PRIVATE ${CMAKE_CURRENT_LIST_DIR}/vp-cuda-driver.cpp)
    foreach (property LINK_LIBRARIES INTERFACE_LINK_LIBRARIES)
        get_target_property(libraries ggml-cuda ${property})
        list(FILTER libraries EXCLUDE REGEX "CUDA::cuda_driver")
        set_target_properties(ggml-cuda PROPERTIES ${property} "${libraries}")
    endforeach()
endif()
