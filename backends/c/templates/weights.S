/* The weights as an object: extern const unsigned char qvit_weights[], qvit_weights_end[]; */
    .section .rodata
    .balign 64
    .global qvit_weights
    .global qvit_weights_end
qvit_weights:
    .incbin "model.weights"
qvit_weights_end:
    .byte 0
#if defined(__linux__) && defined(__ELF__)
    .section .note.GNU-stack, "", %progbits
#endif
