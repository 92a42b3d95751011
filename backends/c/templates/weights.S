/* model.weights as an object: extern const unsigned char qvit_weights[]; of qvit_weights_size() bytes. */
    .section .rodata
    .balign 64
    .global qvit_weights
qvit_weights:
    .incbin "model.weights"
#if defined(__linux__) && defined(__ELF__)
    .section .note.GNU-stack, "", %progbits
#endif
