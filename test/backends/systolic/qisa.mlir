// RUN: QVIT_ROUNDTRIP
// RUN: qvit-opt %s --split-input-file --canonicalize --cse --dce | filecheck %s

// Programs of the systolic machine, in both of xDSL's forms. Passes leave them as they are: equal instructions are two.

// CHECK:      qisa.program @main machine "small" dram 4096 inputs [#qisa.port<"x" at 0 : tensor<1x64xui8>>] outputs [] nodes ["head", "tail"] {
// CHECK-NEXT:   %0 = qvit.constant dense<[1, 2, 3]> : tensor<3xui8>
// CHECK-NEXT:   qisa.data %0 at 0x100 : tensor<3xui8>
// CHECK-NEXT:   qisa.load memory=wbuf source=0x100 planes=1 rows=1 run=3 signal=matrix
// CHECK-NEXT:   qisa.loop count=10 r1+=64 r2-=4 {
// CHECK-NEXT:     qisa.matmul a=r1+0x40 a_row=64 a_type=ui8 a_zero=-3 b_memory=wbuf transposed=1 rows=1 depth=64 wait=load,store node=1
// CHECK-NEXT:     qisa.loop count=2 node=2 attributes {mine = "kept"} {
// CHECK-NEXT:       qisa.function function=sm8_late block=r3 {mine = "kept"}
// CHECK-NEXT:     }
// CHECK-NEXT:     qisa.add r3+=1
// CHECK-NEXT:     qisa.add r3+=1
// CHECK-NEXT:   }
// CHECK-NEXT:   qisa.halt
// CHECK-NEXT: }
qisa.program @main machine "small" dram 4096 inputs [#qisa.port<"x" at 0 : tensor<1x64xui8>>] outputs [] nodes ["head", "tail"] {
  %0 = qvit.constant dense<[1, 2, 3]> : tensor<3xui8>
  qisa.data %0 at 256 : tensor<3xui8>
  qisa.load run=3 rows=1 planes=1 memory=wbuf source=r0+0x100 signal=matrix
  qisa.loop r1+=64 r2-=4 count=10 {
    qisa.matmul a=r1+64 a_row=64 a_type=ui8 a_zero=-3 b_memory=wbuf transposed=1 rows=1 depth=64 wait=store,load node=1
    qisa.loop count=2 node=2 attributes {mine = "kept"} {
      qisa.function function=sm8_late block=r3 {mine = "kept"}
    }
    qisa.add r3+=1
    qisa.add r3+=1
  }
  qisa.halt
}

// -----

// CHECK: #qisa.instruction<set r3=0x40>
func.func private @attributes() attributes {word = #qisa.instruction<set r3=64>}
